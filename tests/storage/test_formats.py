"""Transcoder formats: one contract that all keep, and what hostile or mistaken folders are told."""

import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from interp.capture import Hooks
from interp.families import FAMILIES
from interp.transcoder import Transcoder
from storage.checkpoints import finish, open_checkpoint, write_layer
from storage.formats import open_transcoders
from storage.formats.autoencoders import place_of_repo
from storage.formats.circuit_tracer import folder_config, layer_tensors
from storage.formats.folder import TranscoderFolder
from storage.formats.hooks import HookNames, layer_and_name
from storage.store import Store
from tests.oracles.foreign import run
from tests.storage.releases import (
    D_MODEL,
    D_TRANSCODER,
    HOUSE,
    N_LAYERS,
    RELEASES,
    TURNED,
    Release,
    draw,
    dunefsky_name,
    save_foreign,
    write_circuit_tracer,
    write_clt,
    write_sparsify,
)
from tests.storage.test_damage import ATTRIBUTES

X = torch.randn(N_LAYERS, 50, D_MODEL, generator=torch.Generator().manual_seed(1))


def ours(folder: TranscoderFolder, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations and reconstruction of a layer, from the inputs of all."""
    coder = folder.read(layer)
    a = coder.encode(X[layer])
    y = coder.decode(a, X[layer])
    for source, other in folder.below(layer).items():
        y = y + other.decode(other.encode(X[source]), X[source])
    return a, y


@pytest.mark.parametrize("release", RELEASES.values(), ids=RELEASES)
class TestEveryFormat:
    @pytest.fixture
    def folder(self, release: Release, tmp_path: Path) -> TranscoderFolder:
        release.write(tmp_path / "release", release.weights())
        return open_transcoders(tmp_path / "release", release.model_type)

    def test_it_is_recognised_and_says_where_it_reads(self, release: Release, folder: TranscoderFolder) -> None:
        assert folder.format == release.format
        assert folder.hooks == release.hooks
        assert folder.layers == tuple(range(N_LAYERS))
        assert {folder.shape(layer) for layer in range(N_LAYERS)} == {(D_TRANSCODER, D_MODEL)}
        assert all(file.is_file() for file in folder.files)
        assert len(folder.files) == len(set(folder.files)) >= N_LAYERS
        assert bool(folder.folded) == (release.subtracts or release.folds)

    def test_it_computes_what_its_authors_compute(self, release: Release, folder: TranscoderFolder) -> None:
        weights = release.weights()
        for layer in range(N_LAYERS):
            for found, expected in zip(ours(folder, layer), release.forward(weights, X, layer), strict=True):
                assert (found - expected).abs().max() < 1e-5
            assert 0.01 < (ours(folder, layer)[0] > 0).float().mean() < 0.99

    def test_every_layer_is_in_the_house_orientation(self, release: Release, folder: TranscoderFolder) -> None:
        for layer in (0, N_LAYERS - 1):
            coder = folder.read(layer)
            assert coder.W_enc.shape == coder.W_dec.shape == (D_TRANSCODER, D_MODEL)
            assert all(value.is_contiguous() for value in vars(coder).values() if isinstance(value, torch.Tensor))
            assert (coder.W_skip is not None) == release.has_skip
            assert (coder.subtracted is not None) == release.subtracts

    def test_it_comes_back_from_the_store(self, release: Release, folder: TranscoderFolder, tmp_path: Path) -> None:
        store, coder = Store(tmp_path / "store"), folder.read(3)
        write_layer(store, "c", 3, coder, None, None)
        finish(store, "c", replace(ATTRIBUTES, n_layers=N_LAYERS, activation=coder.activation, k=coder.k))
        found = open_checkpoint(store, "c").transcoder(3, later=True)
        for name, value in vars(coder).items():
            same = (
                torch.equal(value, getattr(found, name))
                if isinstance(value, torch.Tensor)
                else value == getattr(found, name)
            )
            assert same, name

    def test_hooks_can_be_said_instead(self, release: Release, folder: TranscoderFolder) -> None:
        said = open_transcoders(folder.path, release.model_type, "resid_mid", "mlp_out_normed")
        assert said.hooks == Hooks("resid_mid", "mlp_out_normed")

    def test_a_missing_layer_is_named(self, release: Release, folder: TranscoderFolder) -> None:
        gone = next(
            file for file in folder.files if "10" in str(file.relative_to(folder.path)) and file.suffix != ".json"
        )
        gone.unlink()
        with pytest.raises(
            ValueError, match=r"layer 10|_10\.|_10/|_10_|\.10\.|layers \[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11\]"
        ):
            open_transcoders(folder.path, release.model_type)

    def test_some_layers_alone_are_read(self, release: Release, folder: TranscoderFolder) -> None:
        if "CLT" in release.format:
            with pytest.raises(ValueError, match=r"cross-layer transcoder.*all layers must be read"):
                open_transcoders(folder.path, release.model_type, only=(3, 10))
            return
        some = open_transcoders(folder.path, release.model_type, only=(3, 10))
        assert some.layers == (3, 10)
        assert set(some.files) < set(folder.files)
        for layer in some.layers:
            assert some.shape(layer) == (D_TRANSCODER, D_MODEL)
            assert torch.equal(some.read(layer).W_enc, folder.read(layer).W_enc)
        with pytest.raises(ValueError, match=r"12.*found layers \[3\]"):
            open_transcoders(folder.path, release.model_type, only=(3, 12))

    def test_links_stay_in_the_folder_or_in_the_hub_cache(
        self, release: Release, folder: TranscoderFolder, tmp_path: Path
    ) -> None:
        snapshot = tmp_path / "models--o--n" / "snapshots" / "abc"
        for number, file in enumerate(folder.files):
            blob = tmp_path / "models--o--n" / "blobs" / str(number)
            link = snapshot / file.relative_to(folder.path)
            for place in (blob, link):
                place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, blob)
            link.symlink_to(os.path.relpath(blob, link.parent))
        assert open_transcoders(snapshot, release.model_type).read(0).d_transcoder == D_TRANSCODER
        link.unlink()
        link.symlink_to(folder.files[-1])
        with pytest.raises(ValueError, match=f"{link.name}: a symbolic link that leads out of"):
            open_transcoders(snapshot, release.model_type)

    @pytest.mark.parametrize("damage", ["short", "empty", "text"])
    def test_damaged_files_are_named(self, release: Release, folder: TranscoderFolder, damage: str) -> None:
        file = [file for file in folder.files if file.suffix in (".safetensors", ".npz", ".pt")][-1]
        whole = file.read_bytes()
        file.write_bytes({"short": whole[: len(whole) // 2], "empty": b"", "text": b"<!doctype html>" * 99}[damage])
        with pytest.raises(ValueError, match=file.name):
            read_all(folder.path, release.model_type)

    @pytest.mark.oracle
    def test_it_computes_what_its_library_computes(
        self, release: Release, folder: TranscoderFolder, tmp_path: Path
    ) -> None:
        if release.oracle is None:
            pytest.skip("no library on this machine reads it")
        inputs, output = tmp_path / "x", tmp_path / "found"
        save_file({"x": X}, inputs)
        run("format_forward.py", release.oracle, folder.path, inputs, output)
        theirs = load_file(output)
        errors = [
            float((found - theirs[name][layer]).abs().max())
            for layer in range(N_LAYERS)
            for name, found in zip("ay", ours(folder, layer), strict=True)
        ]
        print(f"{release.oracle}: max abs error {max(errors):.1e}")
        assert max(errors) < 1e-5


def read_all(path: Path, model_type: str) -> list[Transcoder]:
    folder = open_transcoders(path, model_type)
    for layer in folder.layers:
        folder.shape(layer)
    return [folder.read(layer) for layer in folder.layers]


def write(release: str, path: Path) -> tuple[Path, str]:
    RELEASES[release].write(path / "release", RELEASES[release].weights())
    return path / "release", RELEASES[release].model_type


def change_json(path: Path, **changes: Any) -> None:
    settings = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in settings.items() if value is not ...}))


def change_yaml(path: Path, **changes: Any) -> None:
    settings = {**yaml.safe_load(path.read_text()), **changes}
    path.write_text(yaml.safe_dump({name: value for name, value in settings.items() if value is not ...}))


def change_tensors(path: Path, **changes: torch.Tensor | None) -> None:
    """Change a layer's file, in whichever of the three containers it is."""
    if path.suffix == ".npz":
        arrays = {
            **np.load(path),
            **{name: None if value is None else value.numpy() for name, value in changes.items()},
        }
        np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    elif path.suffix == ".pt":
        layer = layer_and_name(path.name)[0]
        tensors = {**RELEASES["Dunefsky"].weights()[layer or 0], **changes}
        save_foreign({"state_dict": {name: value for name, value in tensors.items() if value is not None}}, path)
    else:
        tensors = {**load_file(path), **changes}
        save_file({name: value for name, value in tensors.items() if value is not None}, path)


LAYER_FILES = {
    "circuit-tracer": ("layer_4.safetensors", "W_enc"),
    "Gemma Scope": ("layer_4/width_16k/average_l0_64/params.npz", "W_enc"),
    "Gemma Scope 2": ("transcoder_all/layer_4_width_16k_l0_small/params.safetensors", "w_enc"),
    "Dunefsky": (dunefsky_name(4), "W_enc"),
    "SAELens": ("blocks.4/sae_weights.safetensors", "W_enc"),
    "sparsify": ("layers.4.mlp/sae.safetensors", "encoder.weight"),
    "CLT": ("W_enc_4.safetensors", "W_enc_4"),
    "Gemma Scope 2 CLT": ("clt/width_262k_l0_medium/params_layer_4.safetensors", "w_enc"),
    "Llamascopium": ("transcoder/layer4_transcoder_8x_k4/sae_weights.safetensors", "W_E"),
}


@pytest.mark.parametrize("name", LAYER_FILES)
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda W: W.double(), r"float64|2 axes"),
        (lambda W: W.where(W.max() != W, torch.nan), "holds 1 NaN or infinite values"),
        (lambda W: W[:-1], r"has shape .*expected"),
        (lambda W: W[None], r"has shape .*expected"),
        (lambda W: None, r"no tensor "),
    ],
    ids=["float64", "NaN", "shape", "axes", "missing"],
)
def test_weights_that_do_not_fit_are_named(
    tmp_path: Path, name: str, change: Callable[[torch.Tensor], Any], problem: str
) -> None:
    path, model_type = write(name, tmp_path)
    file, tensor = path / LAYER_FILES[name][0], LAYER_FILES[name][1]
    change_tensors(file, **{tensor: change(torch.randn_like(find(path, file, tensor)))})
    with pytest.raises(ValueError, match=problem) as refusal:
        read_all(path, model_type)
    assert file.name in str(refusal.value)


def find(path: Path, file: Path, tensor: str) -> torch.Tensor:
    if file.suffix == ".npz":
        return torch.from_numpy(np.load(file)[tensor])
    return RELEASES["Dunefsky"].weights()[4][tensor] if file.suffix == ".pt" else load_file(file)[tensor]


@pytest.mark.parametrize("name", LAYER_FILES)
def test_unknown_tensors_are_refused(tmp_path: Path, name: str) -> None:
    path, model_type = write(name, tmp_path)
    change_tensors(path / LAYER_FILES[name][0], scaling_factor=torch.ones(D_TRANSCODER))
    with pytest.raises(ValueError, match=r"unknown tensors.*scaling_factor"):
        read_all(path, model_type)


class TestRecognition:
    def test_an_unknown_folder_is_told_what_is_known(self, tmp_path: Path) -> None:
        (tmp_path / "weights.bin").touch()
        with pytest.raises(ValueError, match=r"found weights\.bin; expected config\.yaml .*SAELens.*sparsify"):
            open_transcoders(tmp_path, "gpt2")

    def test_two_formats_in_one_folder_are_refused(self, tmp_path: Path) -> None:
        write_circuit_tracer(tmp_path, draw(names=HOUSE)())
        write_sparsify(tmp_path, RELEASES["sparsify"].weights())
        with pytest.raises(ValueError, match=r"several formats: .*circuit-tracer.*sparsify"):
            open_transcoders(tmp_path, "llama")

    @pytest.mark.parametrize(
        ("release", "first", "second"),
        [
            ("Gemma Scope", "layer_3/width_16k/average_l0_63", "layer_3/width_16k/average_l0_9"),
            ("Gemma Scope 2", "transcoder_all/layer_3_width_16k_l0_small", "transcoder_all/layer_3_width_16k_l0_big"),
            ("SAELens", "blocks.3", "again"),
            ("sparsify", "layers.3.mlp", "model.layers.3.mlp"),
        ],
    )
    def test_choices_for_a_layer_are_listed(self, tmp_path: Path, release: str, first: str, second: str) -> None:
        path, model_type = write(release, tmp_path)
        shutil.copytree(path / first, path / second)
        with pytest.raises(ValueError, match=r"layer 3 has 2 files.*To choose") as refusal:
            open_transcoders(path, model_type)
        assert all(choice in str(refusal.value) for choice in (first, second))

    def test_the_same_layer_under_two_names(self, tmp_path: Path) -> None:
        write_circuit_tracer(tmp_path, draw(names=HOUSE)())
        shutil.copy(tmp_path / "layer_3.safetensors", tmp_path / "layer_03.safetensors")
        with pytest.raises(ValueError, match="layer 3 has 2 files"):
            open_transcoders(tmp_path, "llama")

    def test_a_layer_far_away_costs_nothing(self, tmp_path: Path) -> None:
        write_circuit_tracer(tmp_path, draw(names=HOUSE)())
        shutil.copy(tmp_path / "layer_3.safetensors", tmp_path / "layer_999999.safetensors")
        with pytest.raises(ValueError, match=r"no file layer_12\.safetensors"):
            open_transcoders(tmp_path, "llama")


class TestHooks:
    """The table of docs/design.md, family by family."""

    @pytest.mark.parametrize("model_type", FAMILIES)
    def test_names_that_mean_the_same_everywhere(self, model_type: str, tmp_path: Path) -> None:
        names = HookNames(model_type)
        assert names.hooks(tmp_path, "hook_resid_mid", "mlp.hook_out") == Hooks("resid_mid", "mlp_out")
        assert names.hooks(tmp_path, "mlp.hook_in", "mlp.hook_out") == Hooks("mlp_in", "mlp_out")

    @pytest.mark.parametrize(
        ("model_type", "folded", "expected"),
        [
            ("gemma2", None, Hooks("mlp_in_normalized", "mlp_out_normed")),
            ("gemma3_text", False, Hooks("mlp_in_normalized", "mlp_out_normed")),
            ("llama", None, Hooks("mlp_in_normalized", "mlp_out")),
            ("qwen3", None, Hooks("mlp_in_normalized", "mlp_out")),
            ("gpt2", True, Hooks("mlp_in_normalized", "mlp_out")),
            ("gpt2", False, Hooks("mlp_in", "mlp_out")),
            ("gpt_neox", False, Hooks("mlp_in", "mlp_out")),
        ],
    )
    def test_names_that_depend_on_the_family(
        self, model_type: str, folded: bool | None, expected: Hooks, tmp_path: Path
    ) -> None:
        found = HookNames(model_type).hooks(tmp_path, "ln2.hook_normalized", "hook_mlp_out", norm_folded=folded)
        assert found == expected

    @pytest.mark.parametrize(
        ("name", "problem"),
        [
            ("ln2.hook_normalized", "which the release does not say; set transcoder.input_hook"),
            ("hook_mlp_in", "the residual stream in TransformerLens, the MLP's input in SAELens"),
            ("hook_q", "'hook_q'; expected one of .*or set transcoder.input_hook"),
            (None, "not named; set transcoder.input_hook"),
            ([["x"] * 3] * 3, "is a list; expected"),
        ],
    )
    def test_what_is_not_clear_is_asked_for(self, name: object, problem: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=problem):
            HookNames("gpt2").hooks(tmp_path, name, "hook_mlp_out")
        assert HookNames("gpt2", "mlp_in").hooks(tmp_path, name, "hook_mlp_out") == Hooks("mlp_in", "mlp_out")


class TestCircuitTracer:
    def test_a_square_encoder_has_to_be_explained(self, tmp_path: Path) -> None:
        square = {"W_enc": (8, 8), "W_dec": (8, 8), "b_enc": (8,), "b_dec": (8,)}
        write_circuit_tracer(tmp_path, draw(names=square)())
        with pytest.raises(ValueError, match=r"layer_0\.safetensors: W_enc is square.*W_enc_rows: d_transcoder"):
            read_all(tmp_path, "llama")
        change_yaml(tmp_path / "config.yaml", W_enc_rows="d_transcoder")
        one = read_all(tmp_path, "llama")[2].W_enc
        change_yaml(tmp_path / "config.yaml", W_enc_rows="d_model")
        assert torch.equal(one, read_all(tmp_path, "llama")[2].W_enc.T)

    def test_what_is_said_of_the_orientation_has_to_fit(self, tmp_path: Path) -> None:
        write_circuit_tracer(tmp_path, draw(names=TURNED)(), W_enc_rows="d_transcoder")
        with pytest.raises(ValueError, match=r"W_enc has shape \[6, 20\], expected \[20, 6\]"):
            read_all(tmp_path, "llama")

    def test_what_is_written_here_is_read_again(self, tmp_path: Path) -> None:
        coder = Transcoder(torch.randn(8, 8), torch.randn(8), torch.randn(8, 8), torch.randn(8), "topk", k=3)
        save_file(layer_tensors(coder), tmp_path / "layer_0.safetensors")
        (tmp_path / "config.yaml").write_text(folder_config("m", Hooks("mlp_in", "mlp_out"), "topk", 3))
        assert torch.equal(read_all(tmp_path, "gpt2")[0].W_enc, coder.W_enc)

    @pytest.mark.parametrize(
        "entry", ["/etc/passwd", "../layer_0.safetensors", "hf://o/n/../../x", "hf://o/n/x.npz", 5]
    )
    def test_listed_files_lie_in_the_folder(self, tmp_path: Path, entry: object) -> None:
        write_circuit_tracer(tmp_path / "a", draw(names=HOUSE)(), transcoders=[entry])
        with pytest.raises(ValueError, match=r"layer 0 is .*; expected the file .* inside|not a list of files"):
            open_transcoders(tmp_path / "a", "llama")

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"model_kind": "x"}, "model_kind is 'x'; expected 'transcoder_set' or left out"),
            ({"activation": "gelu"}, "activation is 'gelu'"),
            ({"activation": "jumprelu"}, "activation is jumprelu, but layer_0.safetensors holds a relu"),
            ({"activation": "topk", "k": 0}, "k is 0; expected a positive number"),
            ({"feature_input_hook": ...}, "the input hook is not named"),
            ({"W_enc_rows": True}, "W_enc_rows is True"),
        ],
    )
    def test_settings_that_do_not_fit(self, tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
        write_circuit_tracer(tmp_path, draw(names=HOUSE)())
        change_yaml(tmp_path / "config.yaml", **changes)
        with pytest.raises(ValueError, match=problem):
            read_all(tmp_path, "llama")

    def test_a_config_that_unfolds_without_end(self, tmp_path: Path) -> None:
        write_circuit_tracer(tmp_path, draw(names=HOUSE)())
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
        lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
        (tmp_path / "config.yaml").write_text(
            "\n".join([*lines, "feature_input_hook: *a29", "k: *a29", "activation: *a29"])
        )
        with pytest.raises(ValueError, match=r"config\.yaml: not YAML \(more than 50000 values"):
            open_transcoders(tmp_path, "llama")
        (tmp_path / "config.yaml").write_text("[" * 100_000)
        with pytest.raises(ValueError, match=r"config\.yaml: not YAML"):
            open_transcoders(tmp_path, "llama")


def test_settings_of_sae_lens_that_change_the_computation_are_refused(tmp_path: Path) -> None:
    for name, value in (
        ("apply_b_dec_to_input", True),
        ("apply_b_dec_to_input", ...),
        ("normalize_activations", "layer_norm"),
        ("normalize_activations", "expected_average_only_in"),
        ("reshape_activations", "hook_z"),
        ("activation_fn", "topk"),
        ("architecture", "temporal"),
        ("d_sae", 7),
        ("metadata", {"hook_name": "blocks.4.mlp.hook_in", "hook_name_out": "blocks.5.hook_mlp_out"}),
        ("metadata", {}),
    ):
        shutil.rmtree(tmp_path / "release", ignore_errors=True)
        path, model_type = write("SAELens", tmp_path)
        change_json(path / "blocks.4" / "cfg.json", **{name: value})
        with pytest.raises(ValueError, match=rf"blocks\.4/cfg\.json: .*({name}|hook_name)"):
            read_all(path, model_type)


@pytest.mark.parametrize(("folded", "expected"), [(True, "mlp_in_normalized"), (False, "mlp_in"), (None, "mlp_in")])
def test_sae_lens_says_whether_norms_were_folded(tmp_path: Path, folded: bool | None, expected: str) -> None:
    path, _ = write("SAELens", tmp_path)
    for layer in range(N_LAYERS):
        hook = f"blocks.{layer}.ln2.hook_normalized"
        options = {} if folded is None else {"model_from_pretrained_kwargs": {"fold_ln": folded}}
        metadata = {"hook_name": hook, "hook_name_out": f"blocks.{layer}.hook_mlp_out", **options}
        change_json(path / f"blocks.{layer}" / "cfg.json", metadata=metadata)
    assert open_transcoders(path, "gpt2").hooks.feature_input == expected


def test_settings_of_sparsify_that_change_the_computation_are_refused(tmp_path: Path) -> None:
    for name, value in (
        ("transcode", False),
        ("transcode", ...),
        ("activation", "groupmax"),
        ("signed", True),
        ("k", 0),
        ("k", 21),
        ("k", "4"),
        ("d_in", 7),
    ):
        shutil.rmtree(tmp_path / "release", ignore_errors=True)
        path, model_type = write("sparsify", tmp_path)
        change_json(path / "layers.4.mlp" / "cfg.json", **{name: value})
        with pytest.raises(ValueError, match=rf"layers\.4\.mlp/cfg\.json: {name} is "):
            read_all(path, model_type)


def test_settings_of_gemma_scope_2_have_to_fit(tmp_path: Path) -> None:
    for name, value in (
        ("type", "crosscoder"),
        ("architecture", "topk"),
        ("affine_connection", True),
        ("hf_hook_point_in", "model.layers.5.pre_feedforward_layernorm.output"),
    ):
        shutil.rmtree(tmp_path / "release", ignore_errors=True)
        path, model_type = write("Gemma Scope 2", tmp_path)
        change_json(path / "transcoder_all" / "layer_4_width_16k_l0_small" / "config.json", **{name: value})
        with pytest.raises(ValueError, match=rf"layer_4_width_16k_l0_small/config\.json: {name} is "):
            read_all(path, model_type)


def test_gemma_scope_2_without_config_needs_the_hooks(tmp_path: Path) -> None:
    path, model_type = write("Gemma Scope 2", tmp_path)
    for config in path.rglob("config.json"):
        config.unlink()
    with pytest.raises(ValueError, match=r"the input hook is not named; set transcoder\.input_hook"):
        open_transcoders(path, model_type)
    assert open_transcoders(path, model_type, "mlp_in", "mlp_out_normed").layers == tuple(range(N_LAYERS))


def test_settings_of_llamascopium_that_change_the_computation_are_refused(tmp_path: Path) -> None:
    for name, value in (
        ("sae_type", "molt"),
        ("sae_type", "clt"),
        ("act_fn", "batchtopk"),
        ("norm_activation", "token-wise"),
        ("use_glu_encoder", True),
        ("d_model", 7),
        ("top_k", 21),
    ):
        shutil.rmtree(tmp_path / "release", ignore_errors=True)
        path, model_type = write("Llamascopium", tmp_path)
        change_json(path / "transcoder" / "layer4_transcoder_8x_k4" / "config.json", **{name: value})
        with pytest.raises(ValueError, match=rf"layer4_transcoder_8x_k4/config\.json: {name} is "):
            read_all(path, model_type)


@pytest.mark.parametrize(
    ("release", "settings", "changes"),
    [
        ("sparsify", "layers.4.mlp/cfg.json", {"transcode": False}),
        ("sparsify", "layers.4.mlp/cfg.json", {"transcode": ...}),
        (
            "Llamascopium",
            "transcoder/layer4_transcoder_8x_k4/config.json",
            {"hook_point_in": "blocks.4.hook_mlp_out"},
        ),
    ],
)
def test_autoencoders_that_are_not_read_are_called_so(
    tmp_path: Path, release: str, settings: str, changes: dict[str, Any]
) -> None:
    path, model_type = write(release, tmp_path)
    change_json(path / settings, **changes)
    with pytest.raises(ValueError, match=r"autoencoder.*(not read|transcoders alone are read)") as refusal:
        open_transcoders(path, model_type)
    assert settings in str(refusal.value)


def test_folders_of_autoencoders_that_are_not_read_are_called_so(tmp_path: Path) -> None:
    (tmp_path / "resid_post_layer_3/trainer_0").mkdir(parents=True)
    (tmp_path / "resid_post_layer_3/trainer_0/ae.pt").touch()
    with pytest.raises(ValueError, match="autoencoder"):
        open_transcoders(tmp_path, "gemma3_text")


def test_settings_of_autoencoders_that_change_the_computation_are_refused(tmp_path: Path) -> None:
    for name, value in (
        ("architecture", "gated"),
        ("architecture", "matching_pursuit"),
        ("apply_b_dec_to_input", "yes"),
        ("normalize_activations", "layer_norm"),
        ("reshape_activations", "hook_z"),
        ("activation_fn", "tanh-relu"),
        ("finetuning_scaling_factor", True),
        ("d_sae", 7),
        ("metadata", {"hook_name": "blocks.4.attn.hook_z"}),
        ("metadata", {"hook_name": "blocks.4.hook_resid_mid"}),
        ("metadata", {"hook_name": "blocks.4.hook_mlp_in"}),
    ):
        shutil.rmtree(tmp_path / "release", ignore_errors=True)
        path, model_type = write("SAELens, autoencoders", tmp_path)
        change_json(path / "blocks.4" / "cfg.json", **{name: value})
        with pytest.raises(ValueError, match=rf"blocks\.4/cfg\.json: .*({name}|rebuilds)"):
            read_all(path, model_type)


def test_autoencoders_of_earlier_versions_of_sae_lens_are_read(tmp_path: Path) -> None:
    """Their settings stood beside those of the model, some under other names, and what was the default was left out."""
    path, model_type = write("SAELens, autoencoders", tmp_path)
    expected = open_transcoders(path, model_type)
    for layer in range(N_LAYERS):
        old = {"hook_point": f"blocks.{layer}.hook_attn_out", "hook_point_layer": layer, "d_in": D_MODEL}
        old |= {"d_sae": D_TRANSCODER, "activation_fn_str": "relu", "normalize_activations": False}
        (path / f"blocks.{layer}" / "cfg.json").write_text(json.dumps(old))
    found = open_transcoders(path, model_type)
    assert found.hooks == Hooks("attn_out", "attn_out")
    assert found.folded == expected.folded
    assert torch.equal(found.read(3).b_enc, expected.read(3).b_enc)
    change_json(path / "blocks.3/cfg.json", activation_fn_str="topk", activation_fn_kwargs={"k": 4})
    assert (open_transcoders(path, model_type).read(3).activation, found.read(3).k) == ("topk", None)
    assert open_transcoders(path, model_type).read(3).k == 4


def test_a_mean_that_the_model_was_rid_of_is_taken_from_what_features_read(tmp_path: Path) -> None:
    path, _ = write("SAELens, autoencoders", tmp_path)
    raw = open_transcoders(path, "gpt2").read(3)
    for layer in range(N_LAYERS):
        options = {"hook_name": f"blocks.{layer}.hook_resid_pre"}
        options["model_from_pretrained_kwargs"] = {"center_writing_weights": True}
        change_json(path / f"blocks.{layer}" / "cfg.json", metadata=options)
    found = open_transcoders(path, "gpt2")
    assert len(found.folded) == 2
    centred = X[3] - X[3].mean(1, keepdim=True)
    torch.testing.assert_close(found.read(3).encode(X[3]), raw.encode(centred), atol=1e-5, rtol=1e-5)
    assert len(open_transcoders(path, "llama").folded) == 1  # whose norms do not subtract a mean


def test_gemma_scopes_autoencoders_are_known_by_their_repository_or_by_both_hooks(tmp_path: Path) -> None:
    assert place_of_repo("google/gemma-scope-2b-pt-res") == "resid_post"
    assert place_of_repo("google/gemma-scope-9b-it-res-canonical") == "resid_post"
    assert place_of_repo("google/gemma-scope-2b-pt-mlp") == "mlp_out_normed"
    with pytest.raises(ValueError, match=r"gemma-scope-2b-pt-att.*attention heads mix"):
        place_of_repo("google/gemma-scope-2b-pt-att")
    for repo in (
        "google/gemma-scope-2b-pt-transcoders",
        "google/gemma-scope-2-1b-pt",
        "mwhanna/gemma-scope-transcoders",
    ):
        assert place_of_repo(repo) is None
    path, model_type = write("Gemma Scope", tmp_path)
    assert open_transcoders(path, model_type, "resid_post", "resid_post").hooks.rebuilds
    with pytest.raises(ValueError, match=r"reads resid_post for mlp_out_normed; expected an MLP's input and output"):
        open_transcoders(path, model_type, "resid_post")


def test_gemma_scope_2_says_which_place_an_autoencoder_rebuilds(tmp_path: Path) -> None:
    path, model_type = write("Gemma Scope 2", tmp_path)
    shutil.move(path / "transcoder_all", path / "resid_post_all")
    for layer in range(N_LAYERS):
        (config,) = path.glob(f"resid_post_all/layer_{layer}_*/config.json")
        change_json(config, type="sae", hf_hook_point_in=f"model.layers.{layer}.output", hf_hook_point_out=None)
    assert open_transcoders(path, model_type).hooks == Hooks("resid_post", "resid_post")


def test_a_crosscoder_is_refused(tmp_path: Path) -> None:
    path, model_type = write("Gemma Scope 2 CLT", tmp_path)
    shutil.move(path / "clt", path / "crosscoder")
    with pytest.raises(ValueError, match="a crosscoder, which reads several layers at once"):
        open_transcoders(path, model_type)


def test_a_cross_layer_decoder_of_another_model(tmp_path: Path) -> None:
    write_clt(tmp_path / "a", RELEASES["CLT"].weights())
    for kind in ("W_enc", "W_dec"):
        (tmp_path / "a" / f"{kind}_11.safetensors").unlink()
    with pytest.raises(
        ValueError, match=r"W_dec_0\.safetensors: W_dec_0 has shape \[20, 12, 6\], expected \[20, 11, 6\]"
    ):
        read_all(tmp_path / "a", "llama")


class Command:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


class TestHostileFiles:
    @pytest.mark.parametrize("header", [2**63, 10**9, 200_000_000, 5_000])
    @pytest.mark.parametrize("name", ["circuit-tracer", "Gemma Scope 2", "SAELens", "sparsify", "CLT"])
    def test_a_safetensors_header_that_cannot_be(self, tmp_path: Path, name: str, header: int) -> None:
        path, model_type = write(name, tmp_path)
        file = path / LAYER_FILES[name][0]
        file.write_bytes(struct.pack("<Q", header) + file.read_bytes()[8:])
        with pytest.raises(ValueError, match=f"{file.name}: truncated or not a safetensors file"):
            read_all(path, model_type)

    @pytest.mark.parametrize("where", ["cfg", "state_dict", "inside"])
    def test_a_pickle_that_would_run_a_command(self, tmp_path: Path, where: str) -> None:
        trap = tmp_path / "trap"
        calls = [
            Command(os.system, f"touch {trap}"),
            Command(eval, f"open({str(trap)!r}, 'w')"),
            Command(subprocess.check_output, ["touch", str(trap)]),
            Command(shutil.copy, __file__, str(trap)),
            Command(np.save, str(trap), 1),
            Command(torch.hub.load, "o/n", "m"),
        ]
        path, model_type = write("Dunefsky", tmp_path)
        for call in calls:
            content: dict[str, Any] = {"cfg": {"x": call}, "state_dict": RELEASES["Dunefsky"].weights()[4]}
            if where != "inside":
                content[where] = call
            torch.save(content, path / dunefsky_name(4))
            with pytest.raises(ValueError, match=r"blocks\.4\..*refused: (it names|a call of)"):
                read_all(path, model_type)
            assert not trap.exists()

    @pytest.mark.parametrize(
        "data",
        [
            b"cposix\nsystem\n(S'touch TRAP'\ntR.",
            b"c__builtin__\neval\n(S'1'\ntR.",
            b"(S'touch TRAP'\nios\nsystem\n.",
            b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0atouch TRAP\x85R.",
            b"\x80\x02]r\xff\xff\xff\x7f.",
            b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00.",
            b"\x80\x02cnumpy\nload\nU\x04TRAP\x85R.",
            b"cbuiltins\ngetattr\n.",
            b"ctorch\nload\n.",
            b"\x80\x02}q\x00(X\x03\x00\x00\x00cfgK\x01u.",
            b"",
            b".",
        ],
    )
    def test_pickles_made_by_hand(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
        path, model_type = write("Dunefsky", tmp_path)
        monkeypatch.chdir(tmp_path)
        with zipfile.ZipFile(path / dunefsky_name(4), "w") as archive:
            archive.writestr("archive/data.pkl", data)
            archive.writestr("archive/byteorder", "little")
        with pytest.raises(ValueError, match=r"blocks\.4\..*expected"):
            read_all(path, model_type)
        assert not (tmp_path / "TRAP").exists()

    def test_a_pickle_cannot_change_its_reader(self, tmp_path: Path) -> None:
        """BUILD on a function sets its attributes; the next file must not see them."""
        data = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\x00\x00\x00__defaults__K\x01\x85s\x86b."
        path, model_type = write("Dunefsky", tmp_path)
        good = (path / dunefsky_name(4)).read_bytes()
        with zipfile.ZipFile(path / dunefsky_name(4), "w") as archive:
            archive.writestr("archive/data.pkl", data)
        with pytest.raises(ValueError, match=r"blocks\.4\."):
            read_all(path, model_type)
        (path / dunefsky_name(4)).write_bytes(good)
        assert len(read_all(path, model_type)) == N_LAYERS

    def test_a_tensor_larger_than_its_storage(self, tmp_path: Path) -> None:
        path, model_type = write("Dunefsky", tmp_path)
        file = path / dunefsky_name(4)
        weights = RELEASES["Dunefsky"].weights()[4]
        expanded = torch.zeros(1).expand(D_MODEL, D_TRANSCODER)
        save_foreign({"state_dict": {**weights, "W_enc": expanded}}, file)
        with pytest.raises(ValueError, match=r"4 bytes for a tensor of shape \(6, 20\) in a storage of 4"):
            read_all(path, model_type)

    def test_tensors_that_share_a_storage_or_lie_across_it(self, tmp_path: Path) -> None:
        path, model_type = write("Dunefsky", tmp_path)
        weights = RELEASES["Dunefsky"].weights()
        both = torch.cat([weights[4]["W_enc"].T, weights[4]["W_dec"]])
        turned = {**weights[4], "W_enc": both[:D_TRANSCODER].T, "W_dec": both[D_TRANSCODER:]}
        save_foreign({"cfg": None, "state_dict": turned}, path / dunefsky_name(4))
        expected = RELEASES["Dunefsky"].forward(weights, X, 4)
        assert (ours(open_transcoders(path, model_type), 4)[1] - expected[1]).abs().max() < 1e-5

    def test_files_that_torch_did_not_write(self, tmp_path: Path) -> None:
        path, model_type = write("Dunefsky", tmp_path)
        file = path / dunefsky_name(4)
        whole = zipfile.ZipFile(io.BytesIO(file.read_bytes()))
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for entry in whole.namelist():
                archive.writestr(entry, whole.read(entry))
        with pytest.raises(ValueError, match="is compressed"):
            read_all(path, model_type)
        torch.save({"state_dict": {}}, file, _use_new_zipfile_serialization=False)
        with pytest.raises(ValueError, match=r"blocks\.4\..*refused: File is not a zip file"):
            read_all(path, model_type)

    def test_names_and_settings_of_dunefsky_have_to_agree(self, tmp_path: Path) -> None:
        path, model_type = write("Dunefsky", tmp_path)
        shutil.copy(path / dunefsky_name(3), path / dunefsky_name(4))
        with pytest.raises(ValueError, match=r"blocks\.4\..*cfg\.hook_point is 'blocks\.3\.ln2\.hook_normalized'"):
            open_transcoders(path, model_type)

    def test_an_npz_that_unpacks_to_much_more(self, tmp_path: Path) -> None:
        path, model_type = write("Gemma Scope", tmp_path)
        file = path / LAYER_FILES["Gemma Scope"][0]
        np.savez_compressed(file, W_enc=np.zeros((2000, 20_000), np.float32))
        with pytest.raises(ValueError, match=r"params\.npz: .*bytes packed into .*expected weights"):
            read_all(path, model_type)

    def test_an_npz_whose_arrays_are_not_what_they_say(self, tmp_path: Path) -> None:
        path, model_type = write("Gemma Scope", tmp_path)
        file = path / LAYER_FILES["Gemma Scope"][0]
        arrays = dict(np.load(file))
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)})
        for content, problem in (
            (header.getvalue(), "expected 4000000000"),
            (b"\x93NUMPY\x09\x00" + b"x" * 99, "array format"),
            (b"nothing", "magic string"),
        ):
            np.savez(file, **{name: value for name, value in arrays.items() if name != "W_enc"})
            with zipfile.ZipFile(file, "a") as archive:
                archive.writestr("W_enc.npy", content)
            with pytest.raises(ValueError, match=rf"params\.npz: .*{problem}"):
                read_all(path, model_type)

    def test_an_npz_that_holds_a_pickle(self, tmp_path: Path) -> None:
        path, model_type = write("Gemma Scope", tmp_path)
        file, trap = path / LAYER_FILES["Gemma Scope"][0], tmp_path / "trap"
        call = np.empty(1, object)
        call[0] = Command(os.system, f"touch {trap}")
        np.savez(file, **{**dict(np.load(file)), "W_enc": call})
        with pytest.raises(ValueError, match=r"params\.npz: .*dtype object; expected float32"):
            read_all(path, model_type)
        assert not trap.exists()
        file.write_bytes(pickle.dumps(call[0]))
        with pytest.raises(ValueError, match=r"params\.npz: .*not an npz file"):
            read_all(path, model_type)
        assert not trap.exists()

    @pytest.mark.parametrize("name", ["config.yaml", "layer_4.safetensors"])
    def test_a_link_out_of_the_folder(self, tmp_path: Path, name: str) -> None:
        write_circuit_tracer(tmp_path / "a", draw(names=HOUSE)())
        shutil.move(tmp_path / "a" / name, tmp_path / name)
        (tmp_path / "a" / name).symlink_to(tmp_path / name)
        with pytest.raises(ValueError, match=f"{name}: a symbolic link that leads out of"):
            open_transcoders(tmp_path / "a", "llama")

    def test_links_within_the_folder_and_in_circles(self, tmp_path: Path) -> None:
        write_circuit_tracer(tmp_path, draw(names=HOUSE)())
        shutil.move(tmp_path / "layer_4.safetensors", tmp_path / "kept")
        (tmp_path / "layer_4.safetensors").symlink_to("kept")
        assert len(read_all(tmp_path, "llama")) == N_LAYERS
        (tmp_path / "layer_4.safetensors").unlink()
        (tmp_path / "layer_4.safetensors").symlink_to("layer_4.safetensors")
        with pytest.raises(ValueError, match=r"layer_4\.safetensors"):
            read_all(tmp_path, "llama")


def test_a_circuit_tracer_folder_without_settings_is_read_where_both_hooks_are_given(tmp_path: Path) -> None:
    weights = draw(names=HOUSE)()
    turned = [{**tensors, "W_dec": tensors["W_dec"].T.contiguous()} for tensors in weights]
    write_circuit_tracer(tmp_path, turned)
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(ValueError, match=r"no config\.yaml, which names the hooks"):
        open_transcoders(tmp_path, "llama", "resid_mid")
    folder = open_transcoders(tmp_path, "llama", "resid_mid", "mlp_out")
    assert folder.hooks == Hooks("resid_mid", "mlp_out")
    assert all(path.is_file() for path in folder.files)
    for layer, tensors in enumerate(weights):
        assert folder.shape(layer) == (D_TRANSCODER, D_MODEL)
        coder = folder.read(layer)
        assert torch.equal(coder.W_enc, tensors["W_enc"])
        assert torch.equal(coder.W_dec, tensors["W_dec"])
