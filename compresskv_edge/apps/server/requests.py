"""What clients may send: llama-cpp-python's request types, and what OpenAI's clients send beyond them."""

# no `from __future__ import annotations`: pydantic evaluates the annotations

from typing import Any, Dict, List, Literal, Optional, Union

from llama_cpp.server.types import CreateChatCompletionRequest, CreateCompletionRequest, CreateEmbeddingRequest
from pydantic import BaseModel, Field, field_validator, model_validator

_MOST_CHOICES = 128
_LARGEST, _LARGEST_SEED = 2**31 - 1, 2**32 - 1  # int32_t and uint32_t


class StreamOptions(BaseModel):
    """As OpenAI's."""

    include_usage: bool = Field(default=False, description="Whether the last chunk carries the usage, with no choices.")


class JsonSchema(BaseModel):
    """As OpenAI's: what the answer obeys. The grammar holds it to the schema whether `strict` or not."""

    schema_: Optional[Dict[str, Any]] = Field(default=None, alias="schema")


class ResponseFormat(BaseModel):
    """As OpenAI's, and llama-cpp-python's `schema` beside json_object."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: Optional[JsonSchema] = None
    schema_: Optional[Dict[str, Any]] = Field(default=None, alias="schema")

    @model_validator(mode="after")
    def _has_its_schema(self) -> "ResponseFormat":
        if self.type == "json_schema" and (self.json_schema is None or self.json_schema.schema_ is None):
            raise ValueError("json_schema.schema is missing")
        return self


class EmbeddingRequest(CreateEmbeddingRequest):
    """POST /v1/embeddings."""

    @field_validator("input", mode="after")
    @classmethod
    def _some_text(cls, value: Union[str, List[str]]) -> Union[str, List[str]]:
        if not value or (isinstance(value, list) and not all(value)):
            raise ValueError("an input is empty: send texts of one character or more")
        return value


class _Beyond(BaseModel):
    stream_options: Optional[StreamOptions] = None
    n: Optional[int] = Field(default=1, ge=1, le=1, description="Answers; only one is possible.")

    @model_validator(mode="before")
    @classmethod
    def _null_is_the_default(cls, data: Any) -> Any:
        """As in OpenAI's API; llama-cpp-python would hand null on to C."""
        return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _numbers_that_c_can_hold(self) -> "_Beyond":
        for name in type(self).model_fields:
            value = getattr(self, name)
            largest = _LARGEST_SEED if name == "seed" else _LARGEST
            if isinstance(value, (int, float)) and abs(value) > largest:
                raise ValueError(f"{name} is {value}, which no sampler can hold")
        return self

    @model_validator(mode="after")
    def _room_for_an_answer(self) -> "_Beyond":
        if getattr(self, "max_tokens", None) == 0:
            raise ValueError("max_tokens is 0: use 1 or more, or leave it out")
        return self

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(_Beyond, CreateCompletionRequest):
    """POST /v1/completions."""

    prompt: Union[str, List[int], List[str], List[List[int]]] = Field(
        default="", description="A text or its tokens, or a list of several: each has its own choices."
    )
    n: Optional[int] = Field(default=1, ge=1, le=_MOST_CHOICES, description="Choices for each prompt.")

    @model_validator(mode="after")
    def _so_many_choices(self) -> "CompletionRequest":
        n_choices = len(self.prompts) * (self.n or 1)
        if not 1 <= n_choices <= _MOST_CHOICES:
            raise ValueError(f"{len(self.prompts)} prompts of {self.n} choices each: use 1 to {_MOST_CHOICES} in all")
        return self

    @property
    def prompts(self) -> List[Union[str, List[int]]]:
        """Each text, or its tokens; [1, 2] is one prompt of two tokens."""
        if isinstance(self.prompt, str) or (self.prompt and isinstance(self.prompt[0], int)):
            return [self.prompt]
        return list(self.prompt)  # type: ignore[arg-type]

    def each(self) -> List["CompletionRequest"]:
        """One request for each choice, in OpenAI's order: all choices of the first prompt, then those of the next."""
        return [
            self.model_copy(update={"prompt": prompt, "seed": None if self.seed is None else self.seed + i})
            for prompt in self.prompts
            for i in range(self.n or 1)
        ]


class ChatRequest(_Beyond, CreateChatCompletionRequest):
    """POST /v1/chat/completions."""

    messages: List[Dict[str, Any]] = Field(min_length=1, description="The conversation.")
    max_completion_tokens: Optional[int] = Field(default=None, ge=1, description="OpenAI's newer name of max_tokens.")

    response_format: Optional[ResponseFormat] = Field(default=None, description="As OpenAI's: JSON, or by a schema.")
    tools: Optional[List[Dict[str, Any]]] = Field(default=None, description="Functions that the model may call.")
    tool_choice: Union[Literal["none", "auto", "required"], Dict[str, Any], None] = Field(
        default=None, description="As OpenAI's: none, auto, required, or the one tool that must be called."
    )
    parallel_tool_calls: Optional[bool] = Field(default=None, description="false: one call in an answer at most.")
    chat_template_kwargs: Optional[Dict[str, Any]] = Field(
        default=None, description='For the chat template, as llama.cpp and vLLM name it: {"enable_thinking": false}.'
    )
    reasoning_format: Optional[Literal["none", "auto", "deepseek"]] = Field(
        default=None, description="none: thoughts stay in the content; else they are `reasoning_content`."
    )

    @model_validator(mode="after")
    def _tools_with_names(self) -> "ChatRequest":
        for index, tool in enumerate(self.tools or []):
            if not _names_a_function(tool):
                raise ValueError(f"tools[{index}] has no function with a name")
        if isinstance(self.tool_choice, dict) and not _names_a_function(self.tool_choice):
            raise ValueError("tool_choice names no function: send none, auto, required or a function's name")
        if self.tool_choice == "required" and not (self.tools or self.functions):
            raise ValueError("tool_choice is required, and there are no tools")
        return self

    @model_validator(mode="after")
    def _readable(self) -> "ChatRequest":
        if self.max_completion_tokens is not None:
            self.max_tokens = self.max_completion_tokens
        for index, message in enumerate(self.messages):
            if not isinstance(message.get("role"), str):
                raise ValueError(f"messages[{index}] has no role")
        return self


def _names_a_function(value: Dict[str, Any]) -> bool:
    function = value.get("function")
    return isinstance(function, dict) and isinstance(function.get("name"), str)


# fields that are ours or the protocol's and not arguments of llama_cpp.Llama
NOT_ARGUMENTS = {
    *("n", "best_of", "logit_bias_type", "user", "min_tokens", "stream_options", "max_completion_tokens"),
}
