"""The server's settings: llama-cpp-python's, and ours in the same style (flag, environment variable, config file)."""

# no `from __future__ import annotations`: llama-cpp-python's command line reads the annotations as types

from pathlib import Path
from typing import Annotated, Any, List, Optional, Union

import llama_cpp.server.settings as upstream
from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

# of compresskv_edge.Llama; a test compares
KV_OPTIONS = (
    *("kv_profile", "kv_budget", "kv_tail", "kv_prefill", "kv_memory", "kv_policy"),
    *("kv_protect", "kv_guide", "kv_rebase", "allow_calibration"),
)
MAX_DEFAULT_CTX = 32768  # positions cost no memory with a profile, but the compute buffers grow with them


def _number(value: Any) -> Any:
    """ "256" is tokens a layer, "0.25" a fraction of the prompt; anything else is an error that says so."""
    if not isinstance(value, str):
        return value
    try:
        return float(value) if "." in value else int(value)
    except ValueError:
        raise ValueError(f"{value!r} is neither a number of tokens (256) nor a fraction of the prompt (0.25)") from None


class ModelSettings(upstream.ModelSettings):
    """How a model is loaded. Where a default differs from llama-cpp-python's, a long chat on a small machine is why."""

    kv_profile: Optional[str] = Field(
        default="auto",
        description="Profile of the model: a .json file, the name of a shipped one, 'auto' (measured once, about three "
        "minutes, if there is none yet), 'uniform' (uncalibrated) or 'none' for the stock cache.",
    )
    kv_budget: Annotated[Union[str, int, float, None], BeforeValidator(_number)] = Field(
        default=None,
        description="Tokens a layer keeps on average (1024) or a fraction of the prompt (0.12); the profile's default "
        "if not given.",
    )
    kv_tail: int = Field(default=512, ge=1, description="Rows beside the budget, for tokens that come after.")
    kv_prefill: Optional[str] = Field(
        default=None, description="full, chunked or guided; if not given, full where kv_memory allows it, else guided."
    )
    kv_memory: Union[str, int, None] = Field(
        default=None, description="Memory for the KV cache of a slot, say 2GB; what is free if not given."
    )
    kv_policy: str = Field(
        default="compresskv", description="Which tokens stay: docs/policies.md. The others need no kv_profile."
    )
    kv_protect: bool = Field(default=True, description="Never evict the first tokens and a chat's system prompt.")
    kv_guide: int = Field(
        default=256, ge=1, description="Tokens of the prompt's end that kv_prefill=guided runs ahead."
    )
    kv_rebase: bool = Field(default=False, description="Number the kept tokens anew, for chats without an end.")
    allow_calibration: bool = Field(default=True, description="Whether kv_profile=auto may measure a profile.")
    n_slots: int = Field(
        default=1, ge=1, le=64, description="Conversations at the same time: contexts over one set of weights."
    )
    special_in_messages: bool = Field(
        default=False, description="Whether a message that spells a control token (<|im_end|>) holds one."
    )
    model_alias: Optional[str] = Field(
        default=None, validate_default=True, description="Name of the model for clients; its file's name if not given."
    )
    n_ctx: int = Field(
        default=0,
        ge=0,
        description=f"Positions of a slot; 0: what the model was trained for, but {MAX_DEFAULT_CTX} at most.",
    )
    logits_all: bool = Field(default=False, description="Keep the logits of all tokens; logprobs need it.")
    flash_attn: bool = Field(default=True, description="Flash attention; a compressed cache needs it.")
    verbose: bool = Field(default=False, description="Whether to print what llama.cpp has to say.")

    @field_validator("model_alias", mode="after")
    @classmethod
    def _name_not_path(cls, value: Optional[str], info: ValidationInfo) -> Optional[str]:
        return value or Path(info.data.get("model", "")).name  # clients are told it

    @field_validator("kv_profile", mode="after")
    @classmethod
    def _none_is_stock(cls, value: Optional[str]) -> Optional[str]:
        return None if value in ("", "none") else value

    @model_validator(mode="after")
    def _consistent(self) -> "ModelSettings":
        # an embedding model has no cache to compress, and other policies measure nothing beforehand
        if (self.embedding or self.kv_policy != "compresskv") and "kv_profile" not in self.model_fields_set:
            self.kv_profile = None
        if "n_threads" in self.model_fields_set and "n_threads_batch" not in self.model_fields_set:
            self.n_threads_batch = self.n_threads  # the binding's default for prompts is every core
        if self._is_stock and self.kv_budget is not None:
            raise ValueError(f"kv_budget={self.kv_budget!r} needs a kv_profile, and kv_profile is none")
        return self

    @property
    def _is_stock(self) -> bool:
        return self.kv_profile is None and self.kv_policy == "compresskv"

    def kv_options(self) -> dict[str, Any]:
        """Arguments of compresskv_edge.Llama beyond llama_cpp.Llama's."""
        return {} if self._is_stock else {name: getattr(self, name) for name in KV_OPTIONS}


class ServerSettings(upstream.ServerSettings):
    """Where and for whom the server works, and what it puts up with."""

    host: str = Field(default="127.0.0.1", description="Listen address; 0.0.0.0 for every network: set api_key then.")
    interrupt_requests: bool = Field(
        default=False, description="Whether a new request ends a running stream if no slot is idle."
    )
    max_waiting: int = Field(default=256, ge=0, description="Requests that wait for a slot; one more gets status 503.")
    max_connections: int = Field(default=512, ge=1, description="Connections at once; one more gets status 503.")
    max_body_bytes: int = Field(default=32 << 20, ge=1024, description="Larger bodies get status 413.")
    body_timeout: float = Field(default=60.0, gt=0, description="Seconds a client has to send its body (408).")
    send_timeout: float = Field(default=60.0, gt=0, description="Seconds until a client that reads nothing is dropped.")
    cors_origins: List[str] = Field(
        default=[], description="Web origins whose pages may use this server, or *; by default its own page only (403)."
    )
    allowed_hosts: List[str] = Field(
        default=[],
        description="Host names the server answers to, or *; by default this machine's own while host is one of them, "
        "else any.",
    )
    document_timeout: float = Field(default=120.0, gt=0, description="Seconds that reading a .pdf may take.")
    sessions_dir: Optional[str] = Field(
        default=None, description="Folder of saved chats; the user's data folder if not given."
    )
    page: bool = Field(default=True, description="Whether / is the chat page.")


class ServerAndModelSettings(ServerSettings, ModelSettings):
    """All of them, for one model."""


class ConfigFileSettings(ServerSettings):
    """A config file: the server's settings and a list of models, which are loaded one at a time."""

    models: List[ModelSettings] = Field(default=[], min_length=1, description="Models.")
