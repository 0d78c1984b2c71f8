import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from headers import write_gguf

from compresskv_edge.errors import BudgetError, ProfileError
from compresskv_edge.model.facts import ModelFacts
from compresskv_edge.model.profile import Profile, Settings, schema_json

ROOT = Path(__file__).parent.parent
GOLDEN = json.loads((Path(__file__).parent / "golden" / "budgets.json").read_text())["published"]
PUBLISHED = {
    "llama-3.1-8b-instruct": GOLDEN["Llama-3.1-8B-Instruct"],
    "mistral-7b-instruct-v0.3": GOLDEN["Mistral-7B-Instruct-v0.3"],
}


def valid():
    return {
        "schema_version": 1,
        "model": {"architecture": "llama", "n_layer": 3, "n_head": 4, "n_head_kv": 2, "head_dim": 16, "name": "m"},
        "heads_ranked": [[3, 1, 0, 2], [0, 1, 2], [2]],
        "layer_errors": [0.5, 0.25, 0.25],
        "settings": {"n_heads": 2},
        "default_budget": 0.25,
        "provenance": {"how": "by hand", "text": "none", "date": "2025-01-01", "version": "0"},
    }


# load


def test_load_from_dict_path_name_and_profile(tmp_path):
    profile = Profile.load(valid())
    path = tmp_path / "m.json"
    path.write_text(json.dumps(valid()))
    assert Profile.load(path) == Profile.load(str(path)) == profile
    assert Profile.load(profile) is profile
    assert Profile.load("demo").model.name == "demo"


def test_loading_does_not_change_the_dict():
    data = valid()
    Profile.load(data)
    assert data == valid()


def test_left_out_settings_are_the_papers():
    data = valid()
    del data["settings"]
    assert Profile.load(data).settings == Settings(
        window=8, kernel=5, pooling="avg", n_heads=4, floor=32, cap_factor=3.0
    )


@pytest.mark.parametrize("version", [2, 0, "1", None, True])
def test_wrong_schema_version(version):
    with pytest.raises(ProfileError, match=f"schema_version is {version!r}"):
        Profile.load({**valid(), "schema_version": version})


def test_json_that_is_no_object(tmp_path):
    path = tmp_path / "m.json"
    path.write_text("[1]")
    with pytest.raises(ProfileError, match="holds a list, expected an object"):
        Profile.load(path)


WRONG = [
    ("provenance", None, "provenance: Field required"),
    ("extra", 1, "extra: Extra inputs are not permitted, got 1"),
    ("model.n_head", "4", r"model\.n_head: must be a count, or a list .* got '4'"),
    ("model.n_head", [4, 2], "n_head lists 2 layers but n_layer is 3"),
    ("model.n_layer", 0, r"model\.n_layer: .* got 0"),
    ("model.n_layer", 3.0, r"model\.n_layer: .* got 3\.0"),
    ("model.colour", "red", r"model\.colour: Extra"),
    ("layer_errors", [1, 1], "layer_errors has 2 layers but model.n_layer is 3"),
    ("layer_errors", [1, -1, 0], r"layer_errors\[1\]: .* got -1"),
    ("layer_errors", [1, 1, float("nan")], r"layer_errors\[2\]: .* got nan"),
    ("layer_errors", [1, 1, float("inf")], r"layer_errors\[2\]: .* got inf"),
    ("layer_errors", [1, "x", 1], r"layer_errors\[1\]: .* got 'x'"),
    ("heads_ranked", [[0], [1]], "heads_ranked has 2 layers"),
    ("heads_ranked", [[0], [1], [2, 2]], "heads_ranked: layer 2 ranks a head twice"),
    ("heads_ranked", [[0], [1], [4]], r"heads_ranked\[2\] names head 4 but the layer has heads 0\.\.3"),
    ("heads_ranked", [[0], [-1], [2]], r"heads_ranked\[1\]\[0\]: .* got -1"),
    ("heads_ranked", [[0], [], [2]], r"heads_ranked\[1\] is empty"),
    ("settings.pooling", "avgpool", r"settings\.pooling: .* got 'avgpool'"),
    ("settings.kernel", 4, "kernel must be odd, got 4"),
    ("settings.window", True, r"settings\.window: .* got True"),
    ("settings.n_heads", 0, r"settings\.n_heads: .* got 0"),
    ("settings.floor", 8, "floor is 8 tokens but the window alone holds 8"),
    ("settings.cap_factor", 0.5, r"settings\.cap_factor: .* got 0\.5"),
    ("default_budget", 8, "default_budget: kv_budget is 8 tokens"),
    ("default_budget", 1.5, "default_budget: .* got 1.5"),
    ("default_budget", True, "default_budget: must be an int .* got True"),
]


@pytest.mark.parametrize(("field", "value", "message"), WRONG)
def test_wrong_fields_are_named(tmp_path, field, value, message):
    data = valid()
    *parents, last = field.split(".")
    place = data[parents[0]] if parents else data
    place[last] = value
    if value is None:
        del place[last]
    path = tmp_path / "m.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ProfileError, match=message) as caught:
        Profile.load(path)
    assert "m.json" in str(caught.value)
    assert "schema.json" in str(caught.value)


def test_all_wrong_fields_are_named_at_once():
    data = {**valid(), "default_budget": "x", "layer_errors": None, "more": 1}
    with pytest.raises(ProfileError) as caught:
        Profile.load(data)
    assert all(field in str(caught.value) for field in ("default_budget", "layer_errors", "more"))


def test_a_profile_cannot_be_changed():
    profile = Profile.load(valid())
    with pytest.raises(ValueError, match="frozen"):
        profile.default_budget = 0.5


# save


def test_saved_profile_is_equal_and_its_text_stable(tmp_path):
    profile = Profile.load(valid())
    path = tmp_path / "m.json"
    profile.save(path)
    assert Profile.load(path) == profile
    assert path.read_text() == profile.to_json() == Profile.load(path).to_json()
    assert os.listdir(tmp_path) == ["m.json"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m.json"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ProfileError, match=r"cannot write profile .*m\.json.*No space left"):
        Profile.load(valid()).save(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["m.json"]


def test_save_into_a_missing_folder(tmp_path):
    with pytest.raises(ProfileError, match="cannot write profile"):
        Profile.load(valid()).save(tmp_path / "none" / "m.json")


# against a model


def test_check_accepts_its_model_under_any_name():
    profile = Profile.load(valid())
    profile.check(profile.model.model_copy(update={"name": "a fine-tune"}))


def test_check_names_every_mismatch():
    profile = Profile.load(valid())
    other = ModelFacts(architecture="qwen2", n_layer=2, n_head=[4, 2], n_head_kv=2, head_dim=64, name="other")
    with pytest.raises(ProfileError) as caught:
        profile.check(other)
    message = str(caught.value)
    assert "'m' does not fit the model 'other'" in message
    assert "architecture: profile 'llama', model 'qwen2'" in message
    assert "n_layer: profile 3, model 2" in message
    assert "n_head: profile 4, model (4, 2)" in message
    assert "head_dim: profile 16, model 64" in message
    assert "n_head_kv" not in message
    assert "Profile.uniform(model_path)" in message


def test_equal_counts_a_layer_are_one_count():
    facts = ModelFacts(architecture="llama", n_layer=3, n_head=[4, 4, 4], n_head_kv=(2, 2, 2), head_dim=16, name="m")
    assert facts == Profile.load(valid()).model


# budgets and heads


@pytest.mark.parametrize("name", PUBLISHED)
def test_shipped_profiles_hold_the_published_values(name):
    profile = Profile.load(name)
    assert [list(ranking) for ranking in profile.heads_ranked] == PUBLISHED[name]["heads_ranked"]
    for mean, budgets in PUBLISHED[name]["budgets"].items():
        assert profile.budgets(int(mean)) == budgets
    assert any("LongBench" in remark for remark in profile.provenance.remarks)


def test_heads_used_are_the_first_of_the_ranking():
    assert Profile.load(valid()).heads_used() == [[3, 1], [0, 1], [2]]


def test_layers_that_are_not_evictable_get_no_budget():
    profile = Profile.load(valid())
    assert profile.budgets(100, [True, False, True]) == [123, 0, 77]
    assert profile.budgets(100, [False, False, False]) == [0, 0, 0]
    assert sum(profile.budgets(100)) == 300


def test_evictable_of_another_length():
    with pytest.raises(BudgetError, match="evictable lists 2 layers but the profile has 3"):
        Profile.load(valid()).budgets(100, [True, False])


def test_floor_and_cap_of_the_settings():
    data = {**valid(), "layer_errors": [1.0, 0.0, 0.0], "settings": {"floor": 50, "cap_factor": 1.5}}
    assert Profile.load(data).budgets(100) == [150, 75, 75]


# uniform


def test_uniform_uses_all_heads_and_equal_layers(tmp_path):
    profile = Profile.uniform(write_gguf(tmp_path / "m.gguf", head_dim=32))
    assert profile.model == ModelFacts(
        architecture="llama", n_layer=3, n_head=4, n_head_kv=2, head_dim=32, name="header"
    )
    assert profile.heads_used() == [[0, 1, 2, 3]] * 3
    assert profile.budgets(100) == [100] * 3
    assert Profile.load(json.loads(profile.to_json())) == profile


def test_uniform_with_heads_that_differ_from_layer_to_layer(tmp_path):
    profile = Profile.uniform(write_gguf(tmp_path / "m.gguf", n_head=[4, 2, 0], n_head_kv=[2, 1, 0]))
    assert profile.model.n_head == (4, 2, 0)
    assert profile.model.head_dim == 16
    assert profile.heads_used() == [[0, 1, 2, 3], [0, 1], []]


# shipped files


def test_the_demo_profile_fits_the_demo_model(demo_model):
    Profile.load("demo").check(ModelFacts.from_gguf(demo_model))


def test_schema_file_equals_the_code():
    assert (ROOT / "profiles" / "schema.json").read_text() == schema_json()


def test_schema_command():
    command = [sys.executable, "-m", "compresskv_edge.model.profile", "--schema"]
    assert json.loads(subprocess.check_output(command)) == json.loads(schema_json())
