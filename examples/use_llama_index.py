"""LlamaIndex's own llama.cpp class over our cache. Needs llama-index-llms-llama-cpp."""

from compresskv_edge import replace_llama
from compresskv_edge.demo import model_path

replace_llama()  # before the library that builds llama_cpp.Llama is imported

from llama_index.llms.llama_cpp import LlamaCPP  # noqa: E402

hay = "The survey confirms the limits of the first experiment, and no further comment is made. " * 60
document = f"{hay}The secret code of the amber lantern is 4817. {hay}"

llm = LlamaCPP(
    model_path=model_path(),
    context_window=4096,
    temperature=0,
    generate_kwargs={"stop": ["."]},
    model_kwargs={"kv_profile": "auto", "kv_budget": 0.12},
    messages_to_prompt=lambda messages: "\n\n".join(message.content or "" for message in messages),
    completion_to_prompt=lambda text: text,
    verbose=False,
)
for part in llm.stream_complete(f"{document}\n\nQuestion: Which code opens the amber lantern? Answer:"):
    print(part.delta, end="", flush=True)
print()
print(llm._model.kv_stats())
