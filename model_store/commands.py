"""What each command of `dermserve-models` does: options in, an `Answer` out; `__main__` prints it."""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from model_store.comparison import compared_figures, compared_pictures
from model_store.errors import GateRefusedError, NotInStoreError, ReplayError, StoreError
from model_store.gate import Judgement, read_evaluation, read_gate
from model_store.graph_check import check_graphs
from model_store.promotion import Evidence, judged, read_shadow_report, refused
from model_store.replay import Runner, differing, read_answer, read_picture
from model_store.signatures import TrustPolicy, new_key_pair, read_private_key, read_trusted_keys
from model_store.store import ModelStore, ModelVersion
from model_store.tables import table

_FIGURES = {
    "balanced_accuracy": "balanced accuracy",
    "top2_accuracy": "right among the two shown",
    "malignant_auroc": "malignant or not, area under the curve",
    "malignant_sensitivity": "malignant found, at the threshold",
    "malignant_specificity": "benign left alone, at the threshold",
    "expected_calibration_error": "expected calibration error",
}
_MARKS = {True: "pass", False: "FAIL", None: "-"}
_PLOTS = "plots/"


@dataclass(frozen=True)
class Answer:
    """`data` for programs, `text` for people; not `good` is exit code 1."""

    data: Any
    text: str
    good: bool = True


Command = Callable[[ModelStore, argparse.Namespace], Answer]


def listing(store: ModelStore, options: argparse.Namespace) -> Answer:
    """A line for each version; one that cannot be read says so and the others are still listed."""
    names = [options.model] if options.model else store.names()
    rows = [_row(store, name, version) for name in names for version in store.versions(name)]
    headings = ("model", "version", "aliases", "created", "variants", "balanced accuracy", "signed", "MB")
    return Answer(rows, table(headings, [[row[h] for h in headings] for row in rows]))


def show(store: ModelStore, options: argparse.Namespace) -> Answer:
    """Figures and model card; or one plot into a file."""
    opened = store.open(options.model, options.version)
    if options.plot:
        return _plot(opened, options.plot, options.out)
    figures = _headline(opened)
    plots = [Path(file).stem for file in opened.manifest.files if file.startswith(_PLOTS)]
    data = {
        "manifest": opened.manifest.model_dump(mode="json"),
        "digest": opened.digest,
        "signed_by": store.signers(options.model, opened.manifest.version),
        "figures": figures,
        "plots": plots,
    }
    shown = [(text, _interval(figures[key])) for key, text in _FIGURES.items() if key in figures]
    parts = [f"{opened.manifest.name} version {opened.manifest.version}, {opened.digest}\n{opened.place}"]
    parts += [table(("figure", "value (95 % interval)"), shown)] if shown else []
    parts += [f"plots: {', '.join(plots)} (--plot NAME --out FILE)"] if plots else []
    return Answer(data, "\n\n".join([*parts, _card(opened)]))


def compare(store: ModelStore, options: argparse.Namespace) -> Answer:
    """Figures side by side, and which pictures of a folder change their answer."""
    first, second = (store.open(options.model, version) for version in (options.first, options.second))
    names = [f"version {v.manifest.version}" for v in (first, second)]
    figures = compared_figures(first, second)
    rows = [
        (
            r["mix"],
            r["figure"],
            _interval(r["first"]),
            _interval(r["second"]),
            f"{r['difference']:+.3f}{'*' * r['apart']}",
        )
        for r in figures
    ]
    text = table(("mix", "figure", *names, "difference"), rows) + "\n\n* intervals that do not touch"
    if not figures:
        text = "no figure that both versions have"
    data: dict[str, Any] = {"versions": [v.manifest.version for v in (first, second)], "figures": figures}
    if options.pictures:
        count, changed = compared_pictures(first, second, options.variant, options.pictures)
        data |= {"pictures": count, "variant": options.variant, "changed": changed}
        told = [(c["picture"], _told(c["first"]), _told(c["second"])) for c in changed]
        text += f"\n\n{len(changed)} of {count} pictures change their answer"
        text += "\n" + table(("picture", *names), told) if changed else ""
    return Answer(data, text)


def verify(store: ModelStore, options: argparse.Namespace) -> Answer:
    """Every file, the graphs, and with trusted keys the signatures."""
    keys = read_trusted_keys(options.trusted) if options.trusted else {}
    opened = store.verify(options.model, options.version, TrustPolicy(bool(keys), keys))
    check_graphs(opened)
    files, number = len(opened.manifest.files), opened.manifest.version
    signers = store.signers(options.model, number)
    trusted = [key for key in signers if key in keys]
    told = f"signed by {', '.join(trusted)}" if trusted else f"{len(signers)} signatures, not checked (--trusted)"
    text = f"{options.model} version {number}: all {files} files are as published, {opened.digest}\n"
    text += f"graphs: safe to run\nsignatures: {told if signers else 'none'}"
    data = {"version": number, "digest": opened.digest, "files": files, "signed_by": signers, "trusted": trusted}
    return Answer(data, text)


def sign(store: ModelStore, options: argparse.Namespace) -> Answer:
    """Add a signature."""
    key = read_private_key(options.key)
    signers = store.sign(options.model, options.version, key)
    return Answer({"signed_by": signers}, f"{options.model} {options.version} is signed by {', '.join(signers)}")


def new_keys(_: ModelStore, options: argparse.Namespace) -> Answer:
    """A key pair in two files."""
    private, public, identity = new_key_pair(options.name)
    data = {"private": str(private), "public": str(public), "key_id": identity}
    return Answer(data, f"{identity}\nsecret: {private}\npublic: {public} (give this to those who are to trust you)")


def gate(store: ModelStore, options: argparse.Namespace) -> Answer:
    """What `promote` would say."""
    lines = _judged(store, options)
    return Answer([asdict(line) for line in lines], _judgements(lines), not refused(lines))


def promote(store: ModelStore, options: argparse.Namespace) -> Answer:
    """Through the gate, or past it with a reason."""
    if options.force and not (options.reason or "").strip():
        raise GateRefusedError("--force needs a --reason that is worth recording")
    lines = _judged(store, options)
    failed = refused(lines)
    data: dict[str, Any] = {"gate": [asdict(line) for line in lines], "failed": failed}
    if failed and not options.force:
        text = f"{_judgements(lines)}\n\n{options.model} {options.version} is not promoted: {len(failed)} lines failed"
        return Answer(data, text, good=False)
    reason = options.reason if failed else None
    aliases = store.promote(options.model, options.version, options.alias, reason, failed)
    forced = f"\nforced past {len(failed)} failed lines; the reason is recorded" if failed else ""
    return Answer({**data, "aliases": aliases}, f"{_judgements(lines)}\n\n{_aliases(options.model, aliases)}{forced}")


def rollback(store: ModelStore, options: argparse.Namespace) -> Answer:
    """Swap production and previous."""
    aliases = store.rollback(options.model)
    return Answer({"aliases": aliases}, _aliases(options.model, aliases))


def history(store: ModelStore, options: argparse.Namespace) -> Answer:
    """How the aliases came to stand where they stand."""
    found = store.alias_table(options.model)
    headings = ("at", "action", "alias", "from", "to", "reason")
    rows = [
        (f"{m.at:%Y-%m-%d %H:%M:%S}", m.action, m.alias, m.from_version, m.to_version, m.reason) for m in found.history
    ]
    return Answer(found.model_dump(mode="json"), table(headings, rows))


def retire(store: ModelStore, options: argparse.Namespace) -> Answer:
    """Remove the versions that no alias points to: those named, or all but the newest few."""
    versions, used = store.versions(options.model), set(store.aliases(options.model).values())
    chosen = options.versions or [v for v in versions[: max(0, len(versions) - options.keep)] if v not in used]
    if not chosen:
        return Answer({"retired": []}, "nothing to retire")
    question = f"remove {options.model} {', '.join(chosen)} for ever? [y/N] "
    if not options.yes and options.ask(question).strip().lower() not in ("y", "yes"):
        return Answer({"retired": []}, "nothing was removed", good=False)
    for version in chosen:
        store.retire(options.model, version)
    return Answer({"retired": chosen}, f"retired: {', '.join(chosen)}")


def replay(store: ModelStore, options: argparse.Namespace) -> Answer:
    """Repeat an answer: by the digest and variant that it names."""
    answer = read_answer(options.answer) if options.answer else None
    digest = answer["model"]["digest"] if answer else options.digest
    variant = answer["model"]["variant"] if answer else options.variant
    if digest is None:
        raise ReplayError("say which version: --digest and --variant, or --answer FILE")
    version = _by_digest(store, digest)
    runner = Runner(store.verify(version.manifest.name, version.manifest.version), variant)
    found = runner.answer(read_picture(options.picture))
    probabilities = found.by_class(version.manifest)
    data: dict[str, Any] = {
        "model": {
            "name": version.manifest.name,
            "version": version.manifest.version,
            "digest": digest,
            "variant": variant,
        },
        "probabilities": probabilities,
        "malignancy": found.malignant(version.manifest),
        "in_distribution": found.in_distribution,
    }
    if answer is None:
        return Answer(data, json.dumps(data, indent=2))
    if (answer.get("malignancy") or {}).get("prevalence") is not None:
        raise ReplayError("the answer was given for a prevalence: ask the service without one to compare bit for bit")
    data["differing"] = differing(answer, probabilities)
    return Answer(data, json.dumps(data, indent=2), not data["differing"])


def copy(store: ModelStore, options: argparse.Namespace) -> Answer:
    """A version as it is into another store."""
    opened = store.verify(options.model, options.version)
    number = opened.manifest.version
    taken = ModelStore(options.to).copy(opened, store.signature(options.model, number))
    data = {"version": number, "digest": taken.digest, "place": taken.place}
    return Answer(data, f"{options.model} {number} is in {options.to}, {taken.digest}")


def _judged(store: ModelStore, options: argparse.Namespace) -> list[Judgement]:
    keys = read_trusted_keys(options.trusted) if options.trusted else {}
    shadow = read_shadow_report(options.shadow) if options.shadow else None
    evidence = Evidence(TrustPolicy(bool(keys), keys), shadow)
    return judged(store, options.model, options.version, options.alias, read_gate(options.gate), evidence)


def _judgements(lines: list[Judgement]) -> str:
    rows = [(_MARKS[line.passed], line.name, line.found, line.wanted) for line in lines]
    failed = [f"{line.name}: {line.why}" for line in lines if line.passed is False]
    told = table(("", "line", "found", "wanted"), rows)
    return told + ("\n\nwhy the failed lines are there:\n" + "\n".join(failed) if failed else "")


def _by_digest(store: ModelStore, digest: str) -> ModelVersion:
    for name in store.names():
        for number in reversed(store.versions(name)):
            try:
                version = store.open(name, number)
            except StoreError:
                continue  # another version's damage is not this answer's
            if version.digest == digest:
                return version
    raise NotInStoreError(f"no version in {store.location} has the digest {digest[:100]}")


def _row(store: ModelStore, name: str, version: str) -> dict[str, Any]:
    aliases = ", ".join(sorted(alias for alias, target in store.aliases(name).items() if target == version))
    row: dict[str, Any] = {"model": name, "version": version, "aliases": aliases or "-"}
    try:
        opened, signers = store.open(name, version), store.signers(name, version)
        figure = _headline(opened).get("balanced_accuracy")
    except StoreError as error:
        return {**row, "created": "-", "variants": str(error), "balanced accuracy": "-", "signed": "-", "MB": "-"}
    size = sum(file.size_bytes for file in opened.manifest.files.values())
    return {
        **row,
        "created": f"{opened.manifest.created_at:%Y-%m-%d}",
        "variants": ", ".join(opened.manifest.variants),
        "balanced accuracy": _interval(figure) if figure else "-",
        "signed": len(signers) or "-",
        "MB": round(size / 1e6, 1),
    }


def _headline(version: ModelVersion) -> dict[str, dict[str, float]]:
    """The figures on the natural mix, with their intervals; none where there is no evaluation of the known form."""
    test = (read_evaluation(version) or {}).get("test", {})
    try:
        figures = test["collections"][test["natural_mix"]]
        return {key: figures[key] for key in _FIGURES if isinstance(figures[key]["value"], float)}
    except (KeyError, TypeError):
        return {}


def _interval(figure: dict[str, float]) -> str:
    return f"{figure['value']:.3f} ({figure['low']:.3f}-{figure['high']:.3f})"


def _told(answer: dict[str, Any]) -> str:
    return f"{answer['first']} {answer['probability']:.2f}, malignant {answer['malignant']:.2f}" + (
        " (above)" if answer["above_threshold"] else ""
    )


def _card(version: ModelVersion) -> str:
    try:
        return version.read("MODEL_CARD.md").decode(errors="replace")
    except NotInStoreError:
        return "no model card"


def _plot(version: ModelVersion, name: str, out: Path | None) -> Answer:
    file = f"{_PLOTS}{name}.png"
    if out is None:
        raise StoreError("--plot needs --out FILE")
    data = version.read(file)
    try:
        out.write_bytes(data)
    except OSError as error:
        raise StoreError(f"{out}: {error.strerror}") from error
    return Answer({"plot": name, "out": str(out), "bytes": len(data)}, f"{out}: {len(data)} bytes")


def _aliases(model: str, aliases: dict[str, str]) -> str:
    return f"{model}: " + ", ".join(f"{alias} -> {version}" for alias, version in sorted(aliases.items()))
