"""The surgery stage: what it makes is proved, complete and up to date, or is not there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from agentforge.artifacts import read_manifest
from agentforge.data.prepare import prepare
from agentforge.data.tokenizer import train_tokenizer
from agentforge.errors import CheckRefused, UserError
from agentforge.models.checkpoint import Checkpoint
from agentforge.models.surgery import surgery
from agentforge.pipeline import run
from agentforge.recipe.schema import Recipe
from agentforge.systems.adamba.exits.exits import Exit, ExitGate, load_exits, load_gates, save_exits, save_gates
from agentforge.systems.adamba.modeling.embedding_and_head import head
from agentforge.systems.adamba.modeling.shape import AdambaShape
from agentforge.systems.adamba.surgery.proof import load
from tests.systems.adamba.checkpoints import loud, some_gate

MAMBA = {"d_state": 4, "chunk": 16}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("base") / "llama"
    tokenizer = train_tokenizer([Path(os.__file__).read_text(encoding="utf-8")], 512)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    model = loud(LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=4, **sizes)))
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def recipe(output: Path, path: Path | None, name: str = "Tiny", **surgery: Any) -> Recipe:
    """A recipe with this surgery on the checkpoint at ``path``."""
    return Recipe.model_validate(
        {
            "name": name,
            "output_dir": str(output),
            "model": {"path": None if path is None else str(path)},
            "data": {
                "mix": [{"dataset": str(output / "rows.jsonl")}],
                **{"max_length": 64, "eval_fraction": 0.2, "workers": 1, "minhash": {"enabled": False}},
            },
            "surgery": surgery or None,
        }
    )


@pytest.fixture
def grafted(tmp_path: Path, base: Path) -> Path:
    """A graft whose Mamba has been given something to say."""
    made = surgery(recipe(tmp_path, base, "Base", operation="graft", mamba=MAMBA))
    loud(load(made)).save_pretrained(tmp_path / "trained")
    for file in made.glob("token*"):
        (tmp_path / "trained" / file.name).write_bytes(file.read_bytes())
    return tmp_path / "trained"


def metrics(directory: Path) -> dict[str, Any]:
    return dict(read_manifest(directory)["metrics"])


def test_graft_expand_slice_truncate(tmp_path: Path, base: Path, grafted: Path) -> None:
    proof = metrics(tmp_path / "Base-v0.1.0-grafted")["proof"]
    assert (proof["max_logit_difference"], proof["bound"]) == (0.0, 0.0)
    assert proof["tokens"] > 480
    expanded = surgery(recipe(tmp_path, grafted, operation="expand", width="5/4", shape={"num_hidden_layers": 4}))
    assert expanded == tmp_path / "Tiny-v0.1.0-expanded"
    assert 0 < metrics(expanded)["proof"]["max_logit_difference"] < 1e-5
    assert AdambaShape(**metrics(expanded)["shape"]) == AdambaShape(80, 5, 5, 120, 5, 4)
    half = surgery(recipe(tmp_path, expanded, operation="slice", width="1/5"))
    assert half == tmp_path / "Tiny-v0.1.0-width-1of5"
    shallow = surgery(recipe(tmp_path, expanded, operation="truncate", layers=2))
    assert shallow == tmp_path / "Tiny-v0.1.0-depth-2"
    chosen = surgery(recipe(tmp_path, expanded, operation="slice", shape={"intermediate_size": 40}))
    assert chosen == tmp_path / "Tiny-v0.1.0-sliced"
    for made in (expanded, half, shallow, chosen):
        model = AutoModelForCausalLM.from_pretrained(made)
        ids = AutoTokenizer.from_pretrained(made)("import os", return_tensors="pt").input_ids
        assert model.generate(ids, max_new_tokens=3, do_sample=False).shape[1] > ids.shape[1]
        assert (made / "generation_config.json").is_file()
        if made != expanded:
            assert metrics(made)["proof"]["max_logit_difference"] == 0


def test_it_is_made_once_and_again_only_if_asked(tmp_path: Path, grafted: Path) -> None:
    wanted = {"operation": "expand", "shape": {"intermediate_size": 128}}
    made = surgery(recipe(tmp_path, grafted, **wanted))
    before = (made / "model.safetensors").stat().st_mtime_ns
    assert surgery(recipe(tmp_path, grafted, **wanted)) == made
    assert (made / "model.safetensors").stat().st_mtime_ns == before
    other = {"operation": "expand", "shape": {"intermediate_size": 160}}
    with pytest.raises(CheckRefused, match="intermediate_size: 128 -> 160"):
        surgery(recipe(tmp_path, grafted, **other))
    assert load(surgery(recipe(tmp_path, grafted, **other), replace=True)).config.intermediate_size == 160


def test_nothing_is_published_whose_proof_fails(tmp_path: Path, grafted: Path) -> None:
    wanted = recipe(tmp_path, grafted, operation="expand", width="5/4", max_logit_difference=0)
    with pytest.raises(CheckRefused, match="nothing was published"):
        surgery(wanted)
    assert not [path for path in tmp_path.iterdir() if "expanded" in path.name and path.is_dir()]


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({}, "has no `surgery:` section"),
        ({"operation": "expand"}, "set surgery.width .* or sizes in surgery.shape"),
        ({"operation": "expand", "width": "4/5"}, "hidden_size 64 would be 51.2"),
        ({"operation": "expand", "width": "1/2"}, "would shrink from 64 to 32; to make a model smaller"),
        ({"operation": "expand", "width": "wide"}, "surgery.width is 'wide'; give a fraction"),
        ({"operation": "slice", "width": "2"}, "hidden_size of a slice must be 1 to 64, not 128"),
        ({"operation": "slice", "width": "1/2", "layers": 2}, "slice has no option surgery.layers; it takes"),
        ({"operation": "truncate"}, "truncate: set surgery.layers"),
        ({"operation": "truncate", "layers": 4}, "num_hidden_layers of a slice must be 1 to 3, not 4"),
        (
            {"operation": "drop_attention", "layers": 1, "indices": [0]},
            "set either surgery.layers .how many. or surgery.indices .which.",
        ),
        ({"operation": "order", "width": "1/2"}, "order has no option surgery.width"),
        ({"operation": "graft"}, "is a falcon_h1, which is not known here"),
    ],
)
def test_bad_recipes(tmp_path: Path, grafted: Path, wanted: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        surgery(recipe(tmp_path, grafted, **wanted))
    with pytest.raises(UserError, match=r"has no `surgery:` section|set model.path"):
        surgery(recipe(tmp_path, None, **wanted))


@pytest.fixture
def prepared(tmp_path: Path, grafted: Path) -> Path:
    """A graft with rows to measure on, and its output directory."""
    rows = [
        [{"role": "user", "content": f"What is {n} + {n}?"}, {"role": "assistant", "content": f"It is {2 * n}."}]
        for n in range(40)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    prepare(recipe(tmp_path, grafted))
    return grafted


def test_order_and_drop_attention_measure_on_prepared_rows(tmp_path: Path, prepared: Path) -> None:
    ordered = surgery(recipe(tmp_path, prepared, operation="order", rows=8))
    assert ordered.name.endswith("-ordered")
    assert metrics(ordered)["rows"] == 8
    assert metrics(ordered)["proof"]["max_logit_difference"] < 1e-5
    name = "model.layers.0.feed_forward.up_proj.weight"
    assert not torch.equal(Checkpoint(ordered).read(name), Checkpoint(prepared).read(name))
    dropped = surgery(recipe(tmp_path, ordered, operation="drop_attention", layers=1))
    cost = metrics(dropped)["cost"]
    assert dropped.name.endswith("-attention-dropped")
    assert load(dropped).config.dropped_attention == cost["dropped"]
    assert cost["after"] == min(cost["alone"].values())
    assert set(cost["alone"]) == {"0", "1", "2"}
    assert cost["tokens"] > 0
    with pytest.raises(UserError, match="does not exist"):
        surgery(recipe(tmp_path, ordered, "Other", operation="order"))


def with_exits(directory: Path) -> dict[int, ExitGate]:
    gates = {layer: some_gate(64, seed=layer) for layer in (1, 2)}
    save_gates(directory, gates)
    save_exits(directory, {1: Exit(0.5, 0.9, 0.9, 100), 2: Exit(0.6, 0.9, 0.9, 100)})
    return gates


def confidence(directory: Path, layer: int) -> torch.Tensor:
    """What the gate says on the residual stream after ``layer`` layers, as decoding asks it."""
    model = load(directory)
    ids = torch.arange(3, 60)[None]
    with torch.inference_mode():
        hidden = model.model(input_ids=ids, output_hidden_states=True).hidden_states[layer]
        normed = model.model.final_layernorm(hidden)
        return load_gates(directory)[layer](normed, head(model, normed))


def test_exits_come_along_where_they_fit(tmp_path: Path, prepared: Path) -> None:
    """A gate says the same in a wider or an ordered model; calibration is only kept where the model is the same."""
    with_exits(prepared)
    for wanted in ({"operation": "expand", "width": "5/4"}, {"operation": "order"}):
        made = surgery(recipe(tmp_path, prepared, **wanted))
        for layer in (1, 2):
            torch.testing.assert_close(confidence(made, layer), confidence(prepared, layer), rtol=0, atol=1e-4)
        assert load_exits(made) is not None
        assert "exits" not in metrics(made)
    shallow = surgery(recipe(tmp_path, prepared, operation="truncate", layers=2))
    assert list(load_gates(shallow)) == [1]
    assert load_exits(shallow) is None
    assert "the gates after layers 2 were left out" in metrics(shallow)["exits"]
    half = surgery(recipe(tmp_path, prepared, operation="slice", width="1/2"))
    assert not load_gates(half)
    assert "belong to all 64 channels" in metrics(half)["exits"]


def test_as_a_stage_of_run(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = f"name: Walk\nmodel: {{path: {base}}}\nsurgery: {{operation: graft, mamba: {{d_state: 4}}}}\n"
    (tmp_path / "walk.yaml").write_text(text + "stages: [{verb: surgery}]\n")
    titles: list[str] = []
    run("walk.yaml", announce=lambda title, made: titles.append(f"{title} {made}"))
    assert titles[1] == "[1/1] surgery walk.yaml runs/Walk-v0.1.0-grafted"
