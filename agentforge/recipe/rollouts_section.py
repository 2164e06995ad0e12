"""The section `rollouts`: how a model plays episodes, and what writes its turns."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from agentforge.recipe.section import Section

OF_SERVER = ("url", "group_port", "timeout", "asynchronous")
OF_COLOCATE = ("gpu_memory_utilization", "tensor_parallel", "sleep")


class VLLM(Section):
    """How vLLM is run. `collect` and `evaluate` always open an engine of their own."""

    mode: Literal["colocate", "server"] = Field(
        "colocate",
        description="in training. colocate: an engine in each process, on its GPU; server: one that `vllm serve` runs",
    )
    url: str | None = Field(None, pattern=r"^https?://[^/\s]+/?$", description="of the server: http://HOST:8000")
    group_port: int = Field(51216, ge=1, le=65535, description="where trainer and server meet to pass weights (NCCL)")
    timeout: float = Field(240.0, gt=0, description="seconds to wait for the server to come up")
    asynchronous: bool = Field(
        False, description="play the next rollout while the last one is trained on; episodes are one rollout old"
    )
    gpu_memory_utilization: float | None = Field(
        None, gt=0, le=1, description="share of a GPU's memory; none: 0.3 in training, else vLLM's own"
    )
    tensor_parallel: int = Field(1, ge=1, description="GPUs of one engine, in collect and evaluate")
    sleep: bool = Field(True, description="in training: free the engine's memory while weights are trained")
    tolerance: float = Field(
        0.05,
        gt=0,
        description="nats per token by which sampler and trainer may differ after a weight sync, in the mean",
    )

    @model_validator(mode="after")
    def _of_one_mode(self) -> VLLM:
        others = OF_COLOCATE if self.mode == "server" else OF_SERVER
        for key in others:
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} has no effect with mode {self.mode}; leave it out")
        if self.mode == "server" and self.url is None:
            raise ValueError("mode server needs url, the address at which `vllm serve` listens")
        return self


class Rollouts(Section):
    """How a model plays episodes: in `collect`, in training and in `evaluate`."""

    max_new_tokens: int = Field(256, ge=1, description="tokens of one turn")
    max_length: int | None = Field(None, ge=16, description="tokens of a whole episode; none: data.max_length")
    batch_size: int = Field(16, ge=1, description="how many episodes are played at once")
    temperature: float = Field(1.0, ge=0, description="for collecting and training; evaluate has its own")
    top_p: float = Field(1.0, gt=0, le=1)
    act: Literal["text", "tool"] = Field(
        "text", description="text: actions are plain text; tool: actions are calls of one tool"
    )
    engine: Literal["transformers", "vllm"] = Field(
        "transformers", description="what writes the turns; vllm needs the vllm extra and CUDA"
    )
    vllm: VLLM = VLLM()

    @model_validator(mode="after")
    def _of_one_engine(self) -> Rollouts:
        if self.engine != "vllm" and self.vllm != VLLM():
            raise ValueError(f"vllm has no effect with engine {self.engine}; set engine: vllm, or leave it out")
        return self
