"""LangChain's own llama.cpp classes over our cache. Needs langchain-community.

Mind two defaults of LangChain: 512 positions, and a RoPE base of 10000 for every model; 0 takes the model's own.
"""

from compresskv_edge import replace_llama
from compresskv_edge.demo import model_path

replace_llama()  # before the library that builds llama_cpp.Llama is imported

from langchain_community.llms import LlamaCpp  # noqa: E402
from langchain_core.prompts import PromptTemplate  # noqa: E402

hay = "The survey confirms the limits of the first experiment, and no further comment is made. " * 60
document = f"{hay}The secret code of the amber lantern is 4817. {hay}"

llm = LlamaCpp(
    model_path=model_path(),
    n_ctx=4096,
    n_batch=512,
    rope_freq_base=0,
    temperature=0,
    stop=["."],
    verbose=False,
    model_kwargs={"kv_profile": "auto", "kv_budget": 0.12},
)
chain = PromptTemplate.from_template("{document}\n\nQuestion: {question} Answer:") | llm
print(chain.invoke({"document": document, "question": "Which code opens the amber lantern?"}).strip())
print(llm.client.kv_stats())
