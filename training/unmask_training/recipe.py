"""The whole recipe of the built-in model, part by part: each reads what earlier parts left in the work folder.

    unmask train mini --work WORK [PART ...]

or, where torchrun starts it (parallel.py), `python -m unmask_training.recipe WORK [PART ...]`. Every part can be
killed and started again; a finished part is skipped. Parts without a common input may run side by side. espeak-ng and
flite must be installed for `data`.
"""

import argparse
import hashlib
import random
import tomllib
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from unmask_engine.codecs.image_tokenizer import ImageTokenizer
from unmask_engine.codecs.vocoder import Vocoder
from unmask_engine.models.backbone import BackboneConfig
from unmask_engine.models.omni import OmniModel
from unmask_engine.models.speech_encoder import SpeechEncoder
from unmask_engine.models.speech_frontend import SpeechFrontend
from unmask_training import (
    align_speech,
    fit_speech,
    parallel,
    publish,
    train_backbone,
    train_ears,
    train_image_codec,
    train_speech_codec,
    train_vocoder,
)
from unmask_training.augment_features import varied
from unmask_training.corpus import Corpus, listening, speaking
from unmask_training.devices import CPU, chosen, device_of, stored
from unmask_training.loop import fast_denormals
from unmask_training.partial import save_arrays, save_weights, whole
from unmask_training.pools import Pools, scenes, speaking_lexicon, tokenise_pictures
from unmask_training.seen import KINDS, RECIPE, START_RECORD
from unmask_training.sequences import Writer
from unmask_training.shared_bits import SharedBits
from unmask_training.spread import spread
from unmask_training.vocabulary import build_tokenizer
from unmask_training.world import Scene

Config = Mapping[str, Any]


def make_data(work: Path, config: Config, _device: torch.device = CPU) -> None:
    """tokenizer.json, the recordings, and the listening features with their normalisation."""
    seed, sizes = config["seed"], config["data"]
    if not (work / "tokenizer.json").exists():
        with whole(work / "tokenizer.json") as partial:
            build_tokenizer(seed, partial)
    speaking(seed - 1, sizes["speaking"]).save(work / "speaking")
    heard = listening(seed, *(sizes[kind] for kind in KINDS))
    heard.save(work / "listening")
    feats = train_ears.features(heard, SpeechFrontend(None), seed)
    if not (work / "am.mvn").exists():
        with whole(work / "am.mvn") as partial:
            train_ears.write_cmvn(partial, *train_ears.cmvn(feats))
    save_arrays(work / "features.npz", rows=np.concatenate(feats), lengths=np.array([len(f) for f in feats]))


def _features(work: Path) -> list[NDArray[np.float16]]:
    kept = np.load(work / "features.npz")
    return np.split(kept["rows"], np.cumsum(kept["lengths"])[:-1])


def _cmvn(work: Path) -> tuple[torch.Tensor, torch.Tensor]:
    from unmask_engine.models.speech_frontend import read_cmvn

    shift, scale = read_cmvn(work / "am.mvn")
    return shift, scale


def make_image_codec(work: Path, config: Config, device: torch.device = CPU) -> None:
    minutes, earlier = config["image_codec"]["minutes"], work / "image_codec_start.pt"  # written by warm_start.py
    start = stored(earlier) if earlier.exists() else None
    model = train_image_codec.train(work / "image_codec", minutes, config["seed"], start=start, device=device)
    save_weights(publish.rounded(model.cpu()).state_dict(), work / "image_codec.pt")


def speaking_corpora(work: Path) -> tuple[Corpus, Corpus]:
    """The speaking voice at its own rate and at 16 kHz."""
    corpus = Corpus.load(work / "speaking")
    waves = [(soxr.resample(r, corpus.sample_rate, 16_000) * 32767).astype(np.int16) for r in corpus.recordings()]
    return corpus, Corpus(corpus.said, np.concatenate(waves), np.cumsum([len(w) for w in waves]), 16_000)


def make_speech_codec(work: Path, config: Config, device: torch.device = CPU) -> None:
    minutes = config["speech_codec"]["minutes"]
    model = train_speech_codec.train(
        work / "speech_codec", minutes, *speaking_corpora(work), config["seed"], device=device
    )
    save_weights(publish.rounded(model.cpu()).state_dict(), work / "speech_codec.pt")


def make_ears(work: Path, config: Config, device: torch.device = CPU) -> None:
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    texts = [s.text for s in Corpus.load(work / "listening").said]
    model = SpeechEncoder(train_ears.CONFIG)
    if (work / "ears_start.pt").exists():  # written by warm_start.py
        model.load_state_dict(stored(work / "ears_start.pt"))
    train_ears.train(
        model, work / "ears", feats=_features(work), texts=texts, tokenizer=tokenizer, normalise=_cmvn(work),
        seed=config["seed"], device=device, **config["ears"],
    )  # fmt: skip
    save_weights(publish.rounded(model.cpu()).state_dict(), work / "ears.pt")


def make_vocoder(work: Path, config: Config, device: torch.device = CPU) -> None:
    model = train_vocoder.train(
        work / "vocoder", config["vocoder"]["minutes"], Corpus.load(work / "speaking"), config["seed"], device=device
    )
    save_weights(publish.rounded(model.cpu()).state_dict(), work / "vocoder.pt")


def make_speech_out(work: Path, config: Config, device: torch.device = CPU) -> None:
    vocoder = Vocoder(train_vocoder.CONFIG)
    vocoder.load_state_dict(stored(work / "vocoder.pt"))
    minutes, codec = config["speech_out"]["minutes"], speech_codec(work)
    lexicon = speaking_lexicon(codec.tokenizer)
    model = fit_speech.train(
        work / "speech_out", minutes, codec, vocoder, *speaking_corpora(work), lexicon, config["seed"], device=device
    )
    save_weights(publish.rounded(model.cpu()).state_dict(), work / "speech_out.pt")


def image_tokenizer(work: Path, file: str = "image_codec.pt") -> ImageTokenizer:
    model = ImageTokenizer(train_image_codec.CONFIG)
    model.load_state_dict(stored(work / file))
    return model.eval()


def speech_codec(work: Path) -> train_speech_codec.Codec:
    model = train_speech_codec.Codec()
    model.load_state_dict(stored(work / "speech_codec.pt"))
    return model.eval()


def ears(work: Path) -> SpeechEncoder:
    model = SpeechEncoder(train_ears.CONFIG)
    model.load_state_dict(stored(work / "ears.pt"))
    return model.eval()


def make_pictures(work: Path, config: Config, device: torch.device = CPU) -> None:
    """Codes of all pictures that the backbone trains on."""
    tokenizer, sizes, seed = image_tokenizer(work).to(device), config["data"], config["seed"]
    drawn, seen = scenes(seed + 1, sizes["drawn"], sizes["seen"])
    # A quarter of the questioned pictures are laid out, drawn with the variations of free ones.
    spoken = [s.scene for s in Corpus.load(work / "listening").said if s.scene]
    groups: dict[str, tuple[list[Scene], random.Random | None]] = {
        "drawn": (drawn, None),
        "seen": (seen, random.Random(seed + 2)),
        "spoken": (spoken, None),
    }
    codes = {
        name: tokenise_pictures(tokenizer, group, train_image_codec.SIDE, rng) for name, (group, rng) in groups.items()
    }
    arrays: Any = {k: np.array([c for _, c in v], dtype=np.int16) for k, v in codes.items()}
    save_arrays(work / "pictures.npz", **arrays)


def make_image_decoder(work: Path, config: Config, device: torch.device = CPU) -> None:
    """What draws gets time of its own, once the codes are what they stay."""
    model = image_tokenizer(work).to(device)
    train_image_codec.refine_decoder(model, work / "image_decoder", config["image_decoder"]["minutes"], config["seed"])
    save_weights(publish.rounded(model.cpu()).state_dict(), work / "image_decoder.pt")


def make_speech_rows(work: Path, config: Config, device: torch.device = CPU) -> None:
    """What the frozen speech encoder hears in each recording: its rows, and the text tokens that they tell.

    Each is heard `hearings` times, each time but the first said and recorded otherwise (augment_features.py), so that
    what reads the rows does not learn them by heart.
    """
    feats, seed = _features(work), config["seed"]
    model, normalise = ears(work).to(device), _cmvn(work)

    def varied_anew(i: int) -> NDArray[np.float16]:
        generator = torch.Generator().manual_seed(seed + i)
        return varied(torch.from_numpy(feats[i % len(feats)]).float(), generator).numpy().astype(np.float16)

    rows, heard = _encoded(model, feats, normalise)
    for hearing in range(1, config["data"].get("hearings", 1)):
        again = spread(varied_anew, range(hearing * len(feats), (hearing + 1) * len(feats)))
        more_rows, more_heard = _encoded(model, again, normalise)
        rows += more_rows
        heard += more_heard
    save_arrays(
        work / "speech_rows.npz",
        rows=np.concatenate(rows), lengths=np.array([len(r) for r in rows]),
        heard=np.concatenate(heard), heard_lengths=np.array([len(h) for h in heard]),
    )  # fmt: skip


def _encoded(
    model: SpeechEncoder, feats: list[NDArray[np.float16]], normalise: tuple[torch.Tensor, torch.Tensor]
) -> tuple[list[NDArray[np.float16]], list[NDArray[np.int16]]]:
    """Of each recording, the encoder's rows (R, size) and the (row, text token) that they tell (N, 2)."""
    shift, scale = normalise
    order = np.argsort([len(f) for f in feats])
    rows, heard = [np.empty(0, np.float16)] * len(feats), [np.empty((0, 2), np.int16)] * len(feats)
    for start in range(0, len(order), 128):
        chosen = order[start : start + 128]
        x, lengths = train_ears.padded([(torch.from_numpy(feats[i]).float() + shift) * scale for i in chosen])
        with torch.no_grad():
            out = model(x.to(device_of(model)).to(torch.bfloat16).float(), lengths).half()
            best = train_ears.best_path(model, out).cpu()
        for i, encoded, path, n in zip(chosen, out.cpu().numpy(), best, lengths.tolist(), strict=True):
            rows[i] = encoded[: n + 4].copy()
            heard[i] = np.array(train_ears.emitted(path[: n + 4]), np.int16).reshape(-1, 2)
    return rows, heard


def load_pools(work: Path, config: Config) -> tuple[Pools, list[NDArray[np.float16]]]:
    """The training material, and the encoder rows of each recording."""
    kept = np.load(work / "speech_rows.npz")
    rows = np.split(kept["rows"], np.cumsum(kept["lengths"])[:-1])
    heard = np.split(kept["heard"], np.cumsum(kept["heard_lengths"])[:-1])
    sizes = config["data"]
    drawn, seen = scenes(config["seed"] + 1, sizes["drawn"], sizes["seen"])
    codes = {k: v.astype(int).tolist() for k, v in np.load(work / "pictures.npz").items()}
    said = Corpus.load(work / "listening").said * sizes.get("hearings", 1)
    writer = Writer(Tokenizer.from_file(str(work / "tokenizer.json")), [len(r) for r in rows])
    captions = [i for i, s in enumerate(said) if s.scene]
    pools = Pools(
        writer,
        drawn=list(zip(drawn, codes["drawn"], strict=True)),
        seen=list(zip(seen, codes["seen"], strict=True)),
        said=said,
        said_codes=dict(zip(captions, cycle(codes["spoken"]), strict=False)),
        lexicon=speaking_lexicon(speech_codec(work).tokenizer),
        heard=tuple([(row, token) for row, token in h.tolist()] for h in heard),
    )
    return pools, rows


def backbone_config(config: Config, vocab_size: int) -> BackboneConfig:
    fields = {k: v for k, v in config["backbone"].items() if k not in ("tokens", "blocks", "workers", "shard")}
    return BackboneConfig(vocab_size=vocab_size, **fields)


def untrained(work: Path, config: Config) -> OmniModel:
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    return OmniModel(backbone_config(config, tokenizer.get_vocab_size()), train_ears.CONFIG)


def learner(work: Path, omni: OmniModel) -> train_backbone.Learner:
    """The model with what helps it to learn."""
    first = Tokenizer.from_file(str(work / "tokenizer.json")).token_to_id("<|image_0|>")
    assert first is not None  # vocabulary.py wrote it
    return train_backbone.Learner(SharedBits(omni, first, image_tokenizer(work).quantize.embedding))


def make_backbone(work: Path, config: Config, device: torch.device = CPU) -> None:
    pools, rows = load_pools(work, config)
    torch.manual_seed(config["seed"])
    omni = untrained(work, config)
    train_backbone.initialise(omni)
    heard = ears(work).state_dict()
    omni.speech_encoder.load_state_dict(heard)
    omni.to(device)
    if (work / "start.pt").exists():  # written by warm_start.py
        omni.load_state_dict(stored(work / "start.pt"))
        omni.speech_encoder.load_state_dict(heard)
    if not (work / "start.pt").exists() or (work / "ears_start.pt").exists():
        align_speech.fit(omni, rows)
    model = learner(work, omni).to(device)
    if config["backbone"].get("shard", False):
        model.shard()
    drawing = {k: config["backbone"][k] for k in ("tokens", "blocks", "workers") if k in config["backbone"]}
    for i, fields in enumerate(config["stage"]):
        stage = train_backbone.Stage(**config.get("masking", {}), **fields)
        train_backbone.train_stage(model, stage, pools, rows, work, config["seed"] + i, **drawing)
    if not parallel.rank():
        trained, _ = of_stage(work, config, config["stage"][-1]["name"])
        save_weights(trained.state_dict(), work / "backbone.pt")


def of_stage(work: Path, config: Config, stage: str, file: str = "checkpoint.pt") -> tuple[OmniModel, float]:
    """The model with the averaged weights of a stage's checkpoint, and for how many minutes all stages trained it."""
    omni, checkpoint = untrained(work, config), stored(work / stage / file)
    model = learner(work, omni)
    model.load_averaged(checkpoint)
    model.bits.fold()
    names = [known["name"] for known in config["stage"]]
    earlier = config["stage"][: names.index(stage)]
    return omni, sum(known["minutes"] for known in earlier) + checkpoint["elapsed"] / 60


def make_bundle(work: Path, config: Config, _device: torch.device = CPU) -> Path:
    """Write everything as a bundle into `work / "bundle"`."""
    model = untrained(work, config)
    model.load_state_dict(stored(work / "backbone.pt"))
    return write_bundle(work, config, model, work / "bundle", sum(stage["minutes"] for stage in config["stage"]))


def write_bundle(work: Path, config: Config, model: OmniModel, out: Path, minutes: float) -> Path:
    """Write that backbone, trained for `minutes`, and everything else of the work folder as a bundle into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    codec = speech_codec(work)
    speech_out = fit_speech.SpeechOut(codec.flow, Vocoder(train_vocoder.CONFIG))
    speech_out.load_state_dict(stored(work / "speech_out.pt"))
    publish.write_weights(model, out / "backbone.safetensors")
    drawing = "image_decoder.pt" if (work / "image_decoder.pt").exists() else "image_codec.pt"
    publish.write_weights(image_tokenizer(work, drawing), out / "image_tokenizer.safetensors")
    publish.write_weights(publish.served_flow(speech_out.flow), out / "speech_flow.safetensors")
    publish.write_weights(codec.tokenizer, out / "speech_tokenizer.safetensors")
    publish.write_weights(speech_out.vocoder, out / "vocoder.safetensors")
    (out / "tokenizer.json").write_bytes((work / "tokenizer.json").read_bytes())
    (out / "am.mvn").write_bytes((work / "am.mvn").read_bytes())
    publish.write_record(out, config, data_hash(work), minutes, work / START_RECORD)
    publish.write_description(out, backbone_config(config, model.lm_head.out_features))
    return out


def data_hash(work: Path) -> str | None:
    """SHA-256 over tokenizer, recordings and pictures' codes: what MODEL_CARD.md names. None where some are not there,
    as in a folder begun from a bundle."""
    files = [work / n for n in ("tokenizer.json", "speaking/samples.npy", "listening/samples.npy", "pictures.npz")]
    if not all(file.is_file() for file in files):
        return None
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            while block := opened.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


# Part -> (the file that shows it is done, its function), in an order that works.
PARTS: Mapping[str, tuple[str, Callable[[Path, Config, torch.device], object]]] = {
    "data": ("features.npz", make_data),
    "image_codec": ("image_codec.pt", make_image_codec),
    "speech_codec": ("speech_codec.pt", make_speech_codec),
    "ears": ("ears.pt", make_ears),
    "vocoder": ("vocoder.pt", make_vocoder),
    "speech_out": ("speech_out.pt", make_speech_out),
    "pictures": ("pictures.npz", make_pictures),
    "image_decoder": ("image_decoder.pt", make_image_decoder),
    "speech_rows": ("speech_rows.npz", make_speech_rows),
    "backbone": ("backbone.pt", make_backbone),
    "bundle": ("bundle/bundle.json", make_bundle),
}


CONFIG = RECIPE


def make(work: Path, parts: Sequence[str], config_file: Path, threads: int, device: torch.device = CPU) -> None:
    """Make the parts in order, skipping what is done. `threads` are torch's; 0 leaves its choice."""
    if threads:
        torch.set_num_threads(threads)
    fast_denormals()
    device = parallel.join(device)
    config = tomllib.loads(config_file.read_text())
    work.mkdir(parents=True, exist_ok=True)
    for part in parts:
        done, make_part = PARTS[part]
        if (work / done).exists():
            print(f"{part}: done already", flush=True)
            continue
        print(f"{part}: started", flush=True)
        make_part(work, config, device)
    parallel.leave()


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the built-in model.")
    parser.add_argument("work", type=Path, help="folder for data, checkpoints and the finished bundle")
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"of: {', '.join(PARTS)}; default all")
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 leaves torch's choice")
    parser.add_argument("--device", default="", help="cpu, cuda or cuda:N; default: cuda where there is one")
    options = parser.parse_args()
    make(options.work, options.parts, options.config, options.threads, chosen(options.device))


if __name__ == "__main__":
    main()
