"""Backbones against transformers' own feature extractors and pipelines, on tiny random checkpoints."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import soxr
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from stand_in_hub import Repository, StandIn, stand_in
from transformers import ASTForAudioClassification, AutoFeatureExtractor, AutoModel, ClapModel, pipeline
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

import genretree
from genretree.bundle.bundle import Bundle, load_bundle
from genretree.bundle.export import export_bundle
from genretree.bundle.hub.card import CardInfo, write_card
from genretree.bundle.manifest import read_description
from genretree.cli import main
from genretree.corpus.store import Store
from genretree.embedding.backbones import FileEmbeddings, embed_files
from genretree.embedding.embedders import BackboneEmbedder
from genretree.errors import SettingsError, TrainingError
from genretree.models.base import embed_slices
from genretree.models.families.backbone import BackboneFamily, BackboneSettings
from genretree.models.pretrained import sources
from genretree.models.pretrained.audio_backbones import AudioBackbone, load_backbone
from genretree.models.pretrained.backbone_checkpoints import fetch_checkpoint, find_checkpoint, read_licence
from genretree.models.pretrained.clap_text import embed_texts
from genretree.models.pretrained.sources import find_source
from genretree.prediction.predict import Prediction, PredictionError, predict, predict_file
from genretree.prediction.text_prompts import text_prompt_bundle
from genretree.settings import SAMPLE_RATE, ImageSettings
from genretree.sound.features import WAVE_16K, WAVE_48K, get_feature
from genretree.sound.mel_16k import compute_mel_16k
from genretree.sound.slices import iter_slices
from genretree.sound.wave import compute_wave, wave_to_float
from genretree.taxonomy import Taxonomy
from genretree.testing import check_family
from genretree.training.train import train
from small_checkpoints import ARCHITECTURES, MAEST, write_checkpoint
from small_corpus import TREE, synthesise

IMAGES = ImageSettings(slice_seconds=2.0, size=32)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {name: write_checkpoint(folder / name, name) for name in ARCHITECTURES}


def load(folder: Path) -> AudioBackbone:
    return load_backbone(find_checkpoint(str(folder)))


def samples(seconds: float = 1.6, n: int = 3, rate: int = 16000) -> np.ndarray:
    """Slices of different sounds, as 16-bit samples: shape (n, samples)."""
    genres = ("Bells", "Slow_beat", "Noise")[:n]
    sounds = [soxr.resample(synthesise(genre, 0, seconds), SAMPLE_RATE, rate) for genre in genres]
    return np.stack([compute_wave(y, rate) for y in sounds])


# -- embeddings ------------------------------------------------------------------------------------------------------


def test_waves_are_the_slices_in_16_bits(tmp_path: Path) -> None:
    y = np.stack([0.4 * np.sin(2 * np.pi * 18000 * np.arange(48000 * 4) / 48000)] * 2, axis=1)  # above 11,025 Hz
    sf.write(tmp_path / "high.wav", y, 48000)
    first = next(iter_slices(tmp_path / "high.wav", IMAGES, features=[WAVE_16K, WAVE_48K]))
    wave = first.features[WAVE_48K]
    assert wave.dtype == np.int16
    assert wave.shape == get_feature(WAVE_48K).shape(IMAGES)
    start = round(first.start * 48000)
    np.testing.assert_allclose(wave_to_float(wave), y[start : start + len(wave), 0], atol=2e-3)
    assert np.abs(first.features[WAVE_16K][100:-100]).max() < 100
    assert compute_wave(np.array([1.5, -2.0], np.float32), SAMPLE_RATE).tolist() == [32767, -32767]


def test_ast_is_what_the_classification_pipeline_classifies(checkpoints: dict[str, Path]) -> None:
    wave = samples(1.2)
    embeddings = load(checkpoints["ast"]).embed(wave)
    classify = pipeline("audio-classification", model=str(checkpoints["ast"]), function_to_apply="softmax")
    head = ASTForAudioClassification.from_pretrained(checkpoints["ast"]).classifier
    for one, embedding in zip(wave, embeddings, strict=True):
        expected = {row["label"]: row["score"] for row in classify(wave_to_float(one))}
        scores = head(torch.from_numpy(embedding)).softmax(dim=0).detach().numpy()
        np.testing.assert_allclose(scores, [expected["LABEL_0"], expected["LABEL_1"]], atol=1e-5)


@pytest.mark.parametrize("name", ["hubert", "wav2vec2", "wavlm", "whisper"])
def test_speech_networks_are_averaged_over_time(checkpoints: dict[str, Path], name: str) -> None:
    wave = samples()
    extract = AutoFeatureExtractor.from_pretrained(checkpoints[name])
    model = AutoModel.from_pretrained(checkpoints[name]).eval()
    for one, embedding in zip(wave, load(checkpoints[name]).embed(wave), strict=True):
        inputs = extract(wave_to_float(one), sampling_rate=16000, return_tensors="pt")
        with torch.no_grad():
            if name == "whisper":  # of 2 s, the first 1.6 s are the slice: 80 frames of the encoder's 100
                expected = model.encoder(**inputs).last_hidden_state[0, :80].mean(dim=0)
            else:
                expected = model(**inputs).last_hidden_state[0].mean(dim=0)
        np.testing.assert_allclose(embedding, expected.numpy(), atol=2e-5)


def test_clap_is_its_audio_features(checkpoints: dict[str, Path]) -> None:
    wave = samples(rate=48000)
    extract = AutoFeatureExtractor.from_pretrained(checkpoints["clap"])
    model = ClapModel.from_pretrained(checkpoints["clap"]).eval()
    inputs = extract([wave_to_float(one) for one in wave], sampling_rate=48000, return_tensors="pt")
    with torch.no_grad():
        expected = model.get_audio_features(inputs["input_features"]).pooler_output
    np.testing.assert_allclose(load(checkpoints["clap"]).embed(wave), expected.numpy(), atol=1e-5)


def _published_maest_input(y: np.ndarray, max_length: int) -> np.ndarray:
    """What MAEST's published feature extractor computes with transformers' functions, from its constants."""
    filters = mel_filter_bank(257, 96, 0, 8000, 16000, norm="slaney", mel_scale="slaney")
    mel = spectrogram(
        y,
        window_function(512, "hann"),
        512,
        256,
        power=2,
        mel_filters=filters,
        mel_floor=1e-30,
        min_value=1e-30,
        pad_mode="constant",
    )
    normalised: np.ndarray = (np.log10(1 + mel.T * 10000) - MAEST["mean"]) / (2 * MAEST["std"])
    return normalised[:max_length]


def test_maest_takes_mel_16k_with_one_normalisation(checkpoints: dict[str, Path]) -> None:
    y = synthesise("Bells", 0, 6.0)
    mel_16k = compute_mel_16k(y)
    backbone = load(checkpoints["maest"])
    inputs = backbone.prepare(mel_16k[None, :300])[0][0].numpy()
    expected = _published_maest_input(soxr.resample(y, SAMPLE_RATE, 16000, quality="HQ"), 300)
    np.testing.assert_allclose(inputs[:-1], expected[:-1], atol=0.004)  # the store rounds to float16
    model = ASTForAudioClassification.from_pretrained(checkpoints["maest"]).eval()
    with torch.no_grad():
        published = model.audio_spectrogram_transformer(torch.from_numpy(expected[None]).float()).pooler_output[0]
    np.testing.assert_allclose(backbone.embed(mel_16k[None, :300])[0], published.numpy(), atol=0.02)


def test_shorter_slices_take_the_first_position_embeddings(checkpoints: dict[str, Path]) -> None:
    mel_16k = compute_mel_16k(synthesise("Bells", 0, 2.0))[None, :120]
    backbone = load(checkpoints["maest"])
    weights = load_file(checkpoints["maest"] / "model.safetensors")
    name = "audio_spectrogram_transformer.embeddings.position_embeddings"
    total, kept = (300 - 16) // 10 + 1, (120 - 16) // 10 + 1
    rows = [0, 1, *(2 + band * total + step for band in range(9) for step in range(kept))]
    weights[name] = weights[name][:, rows]
    config = ASTForAudioClassification.config_class.from_pretrained(checkpoints["maest"], max_length=120)
    short = ASTForAudioClassification.from_pretrained(None, config=config, state_dict=weights).eval()
    with torch.no_grad():
        expected = short.audio_spectrogram_transformer(backbone.prepare(mel_16k)[0]).pooler_output
    np.testing.assert_allclose(backbone.embed(mel_16k), expected.numpy(), atol=1e-6)


def test_longer_slices_are_cut_into_windows(checkpoints: dict[str, Path]) -> None:
    wave = samples(3.0, 2)
    backbone = load(checkpoints["ast"])
    longest = 400 + 127 * 160
    long = [wave_to_float(one) for one in wave]
    start = (len(long[0]) - longest) // 2
    extract = AutoFeatureExtractor.from_pretrained(checkpoints["ast"])
    model = AutoModel.from_pretrained(checkpoints["ast"]).eval()

    def run(pieces: list[np.ndarray]) -> np.ndarray:
        with torch.no_grad():
            found: np.ndarray = model(**extract(pieces, sampling_rate=16000, return_tensors="pt")).pooler_output.numpy()
        return found

    middle = run([y[start : start + longest] for y in long])
    np.testing.assert_allclose(backbone.embed(wave), middle, atol=1e-5)
    ends = (run([y[:longest] for y in long]) + run([y[-longest:] for y in long])) / 2
    np.testing.assert_allclose(backbone.embed(wave, windows=2), ends, atol=1e-5)
    assert backbone.embed(wave[:0]).shape == (0, 32)


# -- checkpoints that can't be used ----------------------------------------------------------------------------------


def test_unusable_checkpoints_are_explained(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    def changed(architecture: str, file: str, **values: Any) -> Path:
        folder = tmp_path / f"{architecture}-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(checkpoints[architecture], folder)
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**content, **values}))
        return folder

    cases = [
        (changed("ast", "config.json", model_type="vit"), "type 'vit', which can't be used as a backbone"),
        (changed("ast", "preprocessor_config.json", feature_extractor_type="Other"), "Other, not ASTFeatureExtractor"),
        (changed("maest", "preprocessor_config.json", n_fft=1024), "has n_fft 1024, not 512"),
        (changed("hubert", "preprocessor_config.json", sampling_rate=24000), "sampling_rate must be 16000 or 48000"),
        (changed("ast", "preprocessor_config.json", max_length=10**9), r"max_length must be in \[16, "),
        (changed("ast", "config.json", hidden_size=64), "of another shape"),
        (write_checkpoint(tmp_path / "fused", "clap", enable_fusion=True, fusion_type="aff_2d"), "feature fusion"),
    ]
    pickled = changed("ast", "config.json")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    cases.append((pickled, "only safetensors are loaded"))
    lacking = changed("wavlm", "config.json")
    weights = load_file(lacking / "model.safetensors")
    del weights["encoder.layers.0.final_layer_norm.weight"]
    save_file(weights, lacking / "model.safetensors")
    cases.append((lacking, "lack 1 arrays .*final_layer_norm.weight"))
    for folder, message in cases:
        with pytest.raises(TrainingError, match=message):
            load(folder)
    with pytest.raises(TrainingError, match=r"not on this machine.*genretree weights get maest"):
        find_checkpoint("maest")
    with pytest.raises(TrainingError, match=r"unknown backbone 'vggish'; choose clap, maest or ast-audioset"):
        find_checkpoint("vggish")


# -- the family ------------------------------------------------------------------------------------------------------


def test_the_family_meets_the_contract(checkpoints: dict[str, Path]) -> None:
    check_family(BackboneFamily, {"backbone": str(checkpoints["maest"]), "Cs": [0.1, 1.0]})


@pytest.fixture(scope="module")
def wave_store(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A copy of the shared store, because training on waveforms adds a feature."""
    target = tmp_path_factory.mktemp("stores") / "store"
    return Store(Path(shutil.copytree(store.folder, target, ignore=shutil.ignore_patterns("cache"))))


@pytest.fixture(scope="module")
def bundle(wave_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundles")
    checkpoint = write_checkpoint(folder / "hubert", "hubert", "cc-by-nc-sa-4.0")
    arguments = ["train", str(wave_store.folder), "--backbone", str(checkpoint), "--out", str(folder / "bundle")]
    done = CliRunner().invoke(main, [*arguments, "--set", "Cs=[1.0]", "--quiet"])
    assert done.exit_code == 0, done.output
    shutil.rmtree(checkpoint)  # from here on, the bundle is used without it
    return load_bundle(folder / "bundle")


def test_a_bundle_works_without_the_checkpoint(bundle: Bundle, wave_store: Store, corpus: Path) -> None:
    assert WAVE_16K in Store(wave_store.folder).features
    assert bundle.calibration is not None
    prediction = predict_file(bundle, corpus.parent / "Noise-0-0.wav")
    assert prediction.consistent
    learned = Store(wave_store.folder)
    rows = learned.rows("train")[:4]
    levels = bundle.model.predict_proba(learned.inputs(rows))
    for level, summed in zip(levels, TREE.sum_levels(levels[-1]), strict=True):
        np.testing.assert_allclose(level, summed, atol=1e-6)
    [cached] = (wave_store.folder / "cache").glob("backbone-*-1.npy")
    np.testing.assert_allclose(np.load(cached)[rows], embed_slices(bundle.model, learned.inputs(rows)), atol=1e-5)


def test_a_bundle_keeps_the_licence(bundle: Bundle) -> None:
    recorded = read_description(bundle.folder)["training"]["initial_weights"]
    assert recorded["licence"] == "cc-by-nc-sa-4.0"
    assert recorded["source"] == "hubert"
    assert len(recorded["sha256"]) == 64
    shown = CliRunner().invoke(main, ["info", str(bundle.folder)]).output
    assert "licence cc-by-nc-sa-4.0" in shown
    card = write_card(read_description(bundle.folder), CardInfo(), "user/rock", None)
    assert "contains the weights hubert" in card
    assert "(licence cc-by-nc-sa-4.0), whose licence also applies to it" in card


def test_waveforms_are_not_explained(bundle: Bundle, corpus: Path) -> None:
    with pytest.raises(SettingsError, match="takes wave_16k; explain a model"):
        genretree.explain(bundle, corpus.parent / "Noise-0-0.wav")


@pytest.mark.slow
def test_an_exported_network_gives_the_same_probabilities(bundle: Bundle, wave_store: Store) -> None:
    pytest.importorskip("openvino")
    exported = export_bundle(bundle.folder, "openvino")
    assert exported.files == ("backbone.bin", "backbone.xml")
    inputs = Store(wave_store.folder).inputs(np.arange(5))
    fast = load_bundle(bundle.folder, "openvino", "float32")
    np.testing.assert_allclose(fast.model.predict_proba(inputs)[-1], bundle.model.predict_proba(inputs)[-1], atol=1e-3)


def test_settings_without_a_checkpoint_name_the_command(wave_store: Store, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="genretree weights get ast-audioset"):
        train(wave_store, "backbone", tmp_path / "b", {"backbone": "ast-audioset"})
    assert BackboneSettings.build({}).backbone == "clap"


# -- files -----------------------------------------------------------------------------------------------------------


def test_files_are_embedded_in_order(checkpoints: dict[str, Path], corpus: Path) -> None:
    files = [corpus.parent / "Noise-0-0.wav", corpus.parent / "absent.wav", corpus.parent / "Drone-0-0.wav"]
    backbone = load(checkpoints["clap"])
    assert backbone.slice_seconds == 2
    keys = {BackboneEmbedder(name, windows=n).key for name in (backbone, str(checkpoints["clap"])) for n in (1, 2)}
    assert len(keys) == 2
    first, failed, last = embed_files(files, backbone)
    assert isinstance(failed, PredictionError)
    for result in (first, last):
        assert isinstance(result, FileEmbeddings)
        assert result.vectors.shape == (4, 24)
        np.testing.assert_allclose(np.diff(result.starts), 2, atol=0.01)
        np.testing.assert_allclose(result.mean, result.vectors.mean(axis=0), atol=1e-6)


def test_embed_and_similar_take_a_backbone(
    checkpoints: dict[str, Path], bundle: Bundle, wave_store: Store, corpus: Path, tmp_path: Path
) -> None:
    song, out = str(corpus.parent / "Noise-0-0.wav"), str(tmp_path / "tracks.npy")
    named = ["--backbone", str(checkpoints["hubert"]), "--quiet"]
    done = CliRunner().invoke(main, ["embed", song, str(corpus.parent / "Drone-0-0.wav"), "-o", out, *named])
    assert done.exit_code == 0, done.output
    assert np.load(out).shape == (2, 32)
    done = CliRunner().invoke(main, ["similar", song, "--in", out, "--json", *named])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["model"] == BackboneEmbedder(str(checkpoints["hubert"])).key
    done = CliRunner().invoke(main, ["similar", song, "--in", str(wave_store.folder), "--json", *named])
    assert done.exit_code == 0, done.output  # training the bundle has added wave_16k
    assert json.loads(done.stdout)["n_tracks"] == 50
    done = CliRunner().invoke(
        main, ["similar", song, "--in", str(wave_store.folder), "--backbone", str(checkpoints["clap"])]
    )
    assert "has no feature wave_48k" in done.output
    done = CliRunner().invoke(main, ["embed", song, "-o", out, "--bundle", "x", *named])
    assert "give either --bundle or --backbone" in done.output


# -- zero-shot -------------------------------------------------------------------------------------------------------

NESTED = Taxonomy.from_nested({"Rock": ["Punk", "Soft_rock"], "Jazz": None, "Classical": ["Opera", "Symphony"]})
PROMPT = "A recording of {genre}!"


def test_zero_shot_probabilities_are_those_of_the_pipeline(checkpoints: dict[str, Path]) -> None:
    bundle = text_prompt_bundle(NESTED, str(checkpoints["clap"]), PROMPT)
    wave = samples(rate=48000)
    levels = bundle.model.predict_proba({WAVE_48K: wave})
    classify = pipeline("zero-shot-audio-classification", model=str(checkpoints["clap"]))
    labels = [leaf[-1].replace("_", " ") for leaf in NESTED.leaves]
    for one, found in zip(wave, levels[-1], strict=True):
        rows = classify(wave_to_float(one), candidate_labels=labels, hypothesis_template="A recording of {}!")
        expected = {row["label"]: row["score"] for row in rows}
        np.testing.assert_allclose(found, [expected[label] for label in labels], atol=1e-4)
    for level, summed in zip(levels, NESTED.sum_levels(levels[-1]), strict=True):
        np.testing.assert_allclose(level, summed, atol=1e-9)


def test_predict_by_text_from_the_command_line(checkpoints: dict[str, Path], corpus: Path, tmp_path: Path) -> None:
    tree = tmp_path / "mine.yaml"
    tree.write_text("Rock: [Punk, Soft_rock]\nJazz:\n")
    song, clap = str(corpus.parent / "Noise-0-0.wav"), str(checkpoints["clap"])
    arguments = ["predict", song, "--zero-shot", clap, "--tree", str(tree), "--quiet"]
    done = CliRunner().invoke(main, [*arguments, "--prompt", PROMPT, "--json"])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert {item["label"] for item in answer["levels"][1]["top"]} == {"Punk", "Soft_rock", "Jazz"}
    assert PROMPT in answer["note"]
    assert "mit" in answer["note"]
    [same] = predict(text_prompt_bundle(Taxonomy.from_yaml(tree), clap, PROMPT), song)
    assert isinstance(same, Prediction)
    assert same.levels[0].probability == pytest.approx(answer["levels"][0]["probability"], abs=1e-5)
    for wrong, message in (
        (["predict", song, "--prompt", PROMPT], "--prompt needs --zero-shot"),
        ([*arguments, "--prompt", "music"], "must contain {genre}"),
        (["predict", song, "--zero-shot", str(checkpoints["ast"])], "needs CLAP, not audio-spectrogram-transformer"),
        (["predict", song, "--zero-shot", "clap"], "genretree weights get clap"),
    ):
        done = CliRunner().invoke(main, wrong)
        assert done.exit_code != 0
        assert message in done.output


def test_a_text_network_that_collapsed_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoints["clap"], tmp_path / "clap"))
    weights = load_file(folder / "model.safetensors")
    for name in weights:
        if name.startswith("text_model.embeddings.word"):
            weights[name] = torch.zeros_like(weights[name])
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(TrainingError, match="gives all prompts nearly the same embedding"):
        embed_texts(find_checkpoint(str(folder)), ["rock", "jazz", "soul"])


# -- the Hub ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandIn]:
    with stand_in() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("GENRETREE_CACHE", str(tmp_path / "cache"))
        yield running


def publish(hub: StandIn, name: str, folder: Path, branch: str = "main", **changed: bytes | None) -> str:
    """Commit a folder's files; None leaves a file out."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    files |= {file.replace("__", "."): content for file, content in changed.items() if content is not None}
    files = {file: content for file, content in files.items() if changed.get(file.replace(".", "__"), b"") is not None}
    return hub.repositories.setdefault(name, Repository(private=False)).commit(branch, files, "weights")


def get(name: str) -> str:
    done = CliRunner().invoke(main, ["weights", "get", name])
    assert done.exit_code == 0, done.output
    return done.output


def test_a_checkpoint_is_fetched_at_one_commit_after_its_licence(
    hub: StandIn, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    first = publish(hub, "some/clap", checkpoints["clap"])
    card = b"---\nlicense: cc-by-nc-sa-4.0\n---\n"
    publish(hub, "some/clap", checkpoints["clap"], "v2", README__md=card)
    hub.requests.clear()
    with pytest.raises(TrainingError, match="genretree weights get hf://some/clap"):
        find_checkpoint("hf://some/clap")
    assert not hub.requests  # nothing is downloaded unasked
    shown: list[tuple[str, int]] = []
    fetch_checkpoint("hf://some/clap", lambda plan: shown.append((plan.text, len(hub.requests))))
    [(text, before)] = shown
    assert f"CLAP from https://huggingface.co/some/clap at {first}" in text
    assert text.endswith("licence: mit")
    assert not any("model.safetensors" in request for request in hub.requests[:before])
    output = get("hf://some/clap@v2")
    assert output.index("licence: cc-by-nc-sa-4.0 (no commercial use)") < output.index("model.safetensors (")
    # Without network access, both are found, also by their commit, and the branch keeps the commit that was fetched.
    publish(hub, "some/clap", checkpoints["ast"])
    hub.requests.clear()
    for name, licence in (
        ("hf://some/clap", "mit"),
        (f"hf://some/clap@{first}", "mit"),
        ("hf://some/clap@v2", "cc-by-nc-sa-4.0"),
    ):
        found = find_checkpoint(name)
        assert found.origin["licence"] == licence
        assert found.model_type == "clap"
    assert found.origin["source"] == "some/clap"
    assert not hub.requests
    assert text_prompt_bundle(NESTED, "hf://some/clap").model.backbone.width == 24  # type: ignore[attr-defined]
    with (found.folder / "model.safetensors").open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(TrainingError, match=r"model.safetensors: missing or damaged; delete"):
        find_checkpoint("hf://some/clap@v2")


def test_only_supported_safetensors_are_fetched(hub: StandIn, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    publish(hub, "some/pickled", checkpoints["ast"], model__safetensors=None, pytorch_model__bin=b"\x80\x04")
    vit = json.dumps({"model_type": "vit"}).encode()
    publish(hub, "some/vit", checkpoints["ast"], config__json=vit)
    publish(hub, "some/bare", checkpoints["ast"], preprocessor_config__json=None)
    for name, message in (
        ("hf://some/pickled", r"has no model.safetensors at this revision.*hf://some/pickled@refs/pr/1"),
        ("hf://some/vit", "type 'vit', which can't be used as a backbone"),
        ("hf://some/bare", "has no preprocessor_config.json"),
        ("hf://some/absent", "can't be downloaded from the Hub"),
        ("hf://../x", "unknown backbone"),
    ):
        with pytest.raises(TrainingError, match=message):
            fetch_checkpoint(name)
    assert not any("resolve" in request and "bin" in request for request in hub.requests)
    assert not list((tmp_path / "cache").rglob("source.json"))


def test_a_named_checkpoint_is_verified_and_converted(
    hub: StandIn, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = load_file(checkpoints["clap"] / "model.safetensors")
    torch.save(weights, tmp_path / "pytorch_model.bin")
    pickled = (tmp_path / "pytorch_model.bin").read_bytes()
    source = find_source("clap")
    assert source is not None
    repo = source.location.removeprefix("https://huggingface.co/")
    commit = publish(hub, repo, checkpoints["clap"], model__safetensors=None, pytorch_model__bin=pickled)
    wrong = replace(source, revision=commit)
    monkeypatch.setattr(sources, "SOURCES", (wrong,))
    with pytest.raises(TrainingError, match=r"pytorch_model.bin is not the published file"):
        fetch_checkpoint("clap")
    monkeypatch.setattr(sources, "SOURCES", (replace(wrong, sha256=hashlib.sha256(pickled).hexdigest()),))
    assert "Next: genretree train STORE --backbone clap" in get("clap")
    found = find_checkpoint("clap")
    assert found.origin["revision"] == commit
    assert {path.suffix for path in found.folder.iterdir()}.isdisjoint({".bin", ".pt"})
    assert sources.find_local(wrong) == found.folder / "source.json"
    torch.testing.assert_close(load_file(found.folder / "model.safetensors"), weights)


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\ntext", "apache-2.0"),
        ("---\nlicense: [mit, cc0-1.0]\n---\n", "mit, cc0-1.0"),
        ("---\nlicense: other\nlicense_name: my-own\n---\n", "my-own"),
        ("---\ntags: [x]\n---\n", "not stated"),
        ("---\n: [\n---\n", "not stated"),
        ("no metadata", "not stated"),
    ],
)
def test_licences_are_read_from_the_card(tmp_path: Path, card: str, licence: str) -> None:
    (tmp_path / "README.md").write_text(card)
    assert read_licence(tmp_path / "README.md") == licence
