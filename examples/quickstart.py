"""Ask about a long document, keep 3 % of its KV cache. Put your own GGUF and profile for the demo model's."""

from compresskv_edge import Llama
from compresskv_edge.demo import model_path

hay = "The survey confirms the limits of the first experiment, and no further comment is made. " * 60
document = f"{hay}The secret code of the amber lantern is 4817. {hay}"

llm = Llama(model_path(), kv_profile="demo", kv_budget=0.03, n_ctx=4096, verbose=False)
answer = llm(f"{document}\n\nQuestion: Which code opens the amber lantern? Answer:", temperature=0, stop=["."])

print(answer["choices"][0]["text"])
print(llm.kv_stats())
