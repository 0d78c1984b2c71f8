"""An answer that is JSON of a given form: llama.cpp's grammar allows no other token.

The schema may be that of any pydantic model; here it is a number of four digits.
In a chat, give the schema to `create_chat_completion(response_format={"type": "json_object", "schema": ...})`.
"""

from typing import Annotated

from pydantic import Field, TypeAdapter

from compresskv_edge import Llama
from compresskv_edge.demo import model_path

# isort: split
from llama_cpp import LlamaGrammar  # after compresskv_edge, which says whose llama.cpp is loaded

hay = "The survey confirms the limits of the first experiment, and no further comment is made. " * 60
document = f"{hay}The secret code of the amber lantern is 4817. {hay}"

code = TypeAdapter(Annotated[int, Field(ge=1000, le=9999)])
# The demo model was made to find, not to write: it knows numbers with the space in front of them, which JSON allows. A
# larger model takes any schema: LlamaGrammar.from_json_schema(json.dumps(code.json_schema())).
grammar = LlamaGrammar.from_string('root ::= " " [1-9] [0-9] [0-9] [0-9]', verbose=False)

llm = Llama(model_path(), kv_profile="auto", kv_budget=0.12, n_ctx=4096, verbose=False)
question = "Question: Which code opens the amber lantern? Answer:"
answer = llm(f"{document}\n\n{question}", grammar=grammar, temperature=0, max_tokens=32)

print(code.validate_json(answer["choices"][0]["text"]))
print(llm.kv_stats())
