"""An answer that is JSON of a given form: llama.cpp's grammar allows no other token.

The schema may be that of any pydantic model; this one is small because the demo model was made to find, not to write.
In a chat, give the schema to `create_chat_completion(response_format={"type": "json_object", "schema": ...})`.
"""

import json
from typing import Annotated

from pydantic import Field, TypeAdapter

from compresskv_edge import Llama
from compresskv_edge.demo import model_path

# isort: split
from llama_cpp import LlamaGrammar  # after compresskv_edge, which says whose llama.cpp is loaded

hay = "The survey confirms the limits of the first experiment, and no further comment is made. " * 60
document = f"{hay}The secret code of the amber lantern is 4817. {hay}"

code = TypeAdapter(Annotated[str, Field(pattern="^[0-9]{4}$")])
grammar = LlamaGrammar.from_json_schema(json.dumps(code.json_schema()), verbose=False)

llm = Llama(model_path(), kv_profile="auto", kv_budget=0.12, n_ctx=4096, verbose=False)
question = "Question: Which code opens the amber lantern? Answer:"
answer = llm(f"{document}\n\n{question}", grammar=grammar, temperature=0, max_tokens=32)

print(code.validate_json(answer["choices"][0]["text"]))
print(llm.kv_stats())
