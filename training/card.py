"""MODEL_CARD.md (Mitchell et al., arXiv:1810.03993), generated, so that no figure is typed by hand."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from model_store.lesions import lesions
from training import plots
from training.config import Config
from training.data import PARTS, Picture
from training.evaluate import HEADLINE, RESIZE_MODES, SMALLEST_GROUP
from training.provenance import RunRecord

_FIGURE_NAMES = {
    "balanced_accuracy": "Balanced accuracy",
    "top2_accuracy": "Top-2 accuracy",
    "accuracy": "Accuracy (misleading: most pictures are nevi)",
    "macro_auroc": "Macro AUROC",
    "malignant_auroc": "Malignant AUROC",
    "malignant_sensitivity": "Malignant sensitivity at the threshold",
    "malignant_specificity": "Malignant specificity at the threshold",
    "melanoma_auroc": "Melanoma AUROC",
    "expected_calibration_error": "Expected calibration error",
}
_GROUP_NAMES = {
    "age": "Age (years)",
    "sex": "Sex",
    "site": "Body site",
    "skin_tone": "Skin tone (0 darkest to 5 lightest, as MILK10k records it)",
}
_SOURCES = {
    "ham10000": "HAM10000 (Tschandl, Rosendahl, Kittler 2018, doi:10.7910/DVN/DBW86T), CC BY-NC 4.0",
    "isic2017": "ISIC 2017 challenge, training part (ISIC Archive), non-commercial use",
    "milk10k": "MILK10k (Tschandl et al., ISIC), CC BY-NC 4.0",
    "generated": "drawn by `training/generate.py`; not pictures of skin",
}
Table = Sequence[Sequence[str]]


def model_card(
    config: Config,
    record: RunRecord,
    start: RunRecord | None,
    found: dict[str, Any],
    pictures: Sequence[Picture],
    parts: dict[str, str],
) -> str:
    """The card as Markdown; plots are named relative to it. `start` is the run that was trained on from, if any."""
    sections = (
        _summary(config, found),
        _use(config),
        _data(config, pictures, parts),
        _training(config, record),
        _headline(found),
        _classes(found),
        _decision(config, found),
        _groups(found),
        _shapes(config, found),
        _limits(config),
        _repeat(record, start, found),
    )
    return "\n\n".join(sections) + "\n"


def _summary(config: Config, found: dict[str, Any]) -> str:
    natural = found["test"]["natural_mix"]
    figures = found["test"]["collections"][natural]
    names = ", ".join(f"{lesion.name} (`{code}`)" for code, lesion in lesions().items())
    warning = ""
    if config.data.generated:
        warning = "**Trained on drawn pictures to test the software. It knows nothing about skin.**\n\n"
    return f"""# Model card: {config.name}

{warning}Sorts a dermatoscopic picture of one skin lesion into seven classes: {names}. `akiec`, `bcc` and `mel` count as
malignant.

- **Network**: EfficientNet-{config.network.variant.capitalize()}, fine-tuned from ImageNet weights (Apache-2.0).
- **File**: `model.onnx`, `image` uint8 [N, {config.input.pixels}, {config.input.pixels}, 3] RGB to `probabilities`
  float32 [N, 7], calibrated, in the order of the manifest's `classes`.
- **On test pictures of {natural}** ({figures["pictures"]} pictures of {figures["lesions"]} lesions, none used before):
  balanced accuracy {_interval(figures["balanced_accuracy"])}, malignant AUROC {_interval(figures["malignant_auroc"])}.
- **Licence**: weights CC BY-NC 4.0, as the pictures they were trained on: not for commercial use. Code Apache-2.0."""


def _use(config: Config) -> str:
    natural = config.data.natural_mix
    return f"""## Intended use

Research, teaching and the development of software around such models. In a clinical study: a second look at a
dermatoscopic picture that a clinician judges anyway.

**Not for**: diagnosis or triage without a clinician (it is no medical device and no study with patients stands behind
it), photographs taken without a dermatoscope, nails, mucosa, wounds or inflamed skin, several lesions in one picture,
and diagnoses outside the seven classes, which it cannot name: it will answer with one of the seven all the same.
Probabilities assume the class mix of {natural}; where malignant lesions are more or less frequent they are off."""


def _data(config: Config, pictures: Sequence[Picture], parts: dict[str, str]) -> str:
    rows = []
    for collection in config.data.collections:
        ours = [parts[picture.image_id] for picture in pictures if picture.collection == collection.name]
        counts = [str(ours.count(part)) for part in PARTS]
        rows.append([collection.name, *counts, _SOURCES.get(collection.name, "as supplied with the collection")])
    classes = [[code, *(str(_count(pictures, parts, code, part)) for part in PARTS)] for code in lesions()]
    return f"""## Data

{_table(["collection", *PARTS, "source and licence"], rows)}

Pictures by class, all collections:

{_table(["class", *PARTS], classes)}

All pictures of a lesion stand in one part; parts are drawn by lesion within each class and collection
(`split.csv.gz` lists them). Diagnoses are as published: part histology, part follow-up, expert consensus or confocal
microscopy. What was chosen (temperature, share of the prior, threshold) was chosen on {config.data.natural_mix}'s
validation part, which has the natural class mix."""


def _training(config: Config, record: RunRecord) -> str:
    stages = ", ".join(f"{stage.epochs} at {stage.pixels} px" for stage in config.train.stages)
    device = record.accelerator or f"CPU ({record.processor}, {record.threads} threads)"
    weights = f"the run `{config.start_from}` (its records: `start/`)" if config.start_from else "ImageNet"
    mirrored = "The graph looks at the picture and at its mirror image and averages." if config.input.mirror else ""
    return f"""## Training

Started from the weights of {weights}.
Epochs: {stages}; batches of {config.train.batch_size}, AdamW with learning rate {config.train.learning_rate:g},
cosine schedule, bfloat16 autocast, exponential moving average of the weights ({config.train.ema_decay:g}),
on {device}.
Views are turned, mirrored, zoomed and cut to other picture shapes; colour, focus, noise, dark corners and erased
patches vary. Class imbalance is met by logit adjustment with each collection's own class frequencies
(arXiv:2007.07314, strength {config.train.prior_strength:g}). `config.toml` has every value, `log.csv` every epoch.
{mirrored}

![Training curves](plots/{plots.TRAINING})"""


def _headline(found: dict[str, Any]) -> str:
    test = found["test"]
    columns = {**test["collections"], "all together": test["all"]}
    sizes = [["Pictures (lesions)", *(f"{c['pictures']} ({c['lesions']})" for c in columns.values())]]
    rows = [[_FIGURE_NAMES[name], *(_interval(c[name]) for c in columns.values())] for name in HEADLINE]
    return f"""## Figures

On the test part, from the exported graph. Brackets: {test["interval"]}. The headline is {test["natural_mix"]}.

{_table(["", *columns], sizes + rows)}

Balanced accuracy and macro AUROC are means over the classes that occur in a collection's test part.

![ROC curves](plots/{plots.ROC})"""


def _classes(found: dict[str, Any]) -> str:
    natural = found["test"]["natural_mix"]
    rows = [
        [f"`{code}`", str(of["pictures"]), *(_interval(of[n]) for n in ("sensitivity", "precision", "f1", "auroc"))]
        for code, of in found["test"]["collections"][natural]["classes"].items()
    ]
    return f"""### By class ({natural})

{_table(["class", "pictures", "sensitivity", "precision", "F1", "AUROC"], rows)}

![Confusion matrix](plots/{plots.CONFUSION})"""


def _decision(config: Config, found: dict[str, Any]) -> str:
    chosen, natural = found["calibration"], found["test"]["natural_mix"]
    figures = found["test"]["collections"][natural]
    prior = ", ".join(f"{code} {share:.3f}" for code, share in chosen["prior"].items())
    return f"""### Calibration and threshold

probabilities = softmax(logits / {chosen["temperature"]:.3f} + {chosen["prior_share"]:.2f} x log prior), with the prior
{prior}.
Adding all of the prior calibrates best, adding none finds rare classes best; the share is the one with the best
balanced accuracy whose expected calibration error on validation stays within {config.decision.ece_limit:g}
(`evaluation.json` has the whole table). Expected calibration error on test:
{_interval(figures["expected_calibration_error"])} (the interval lies high: resampling adds noise to every bin).

A lesion is flagged when its malignancy probability (`akiec` + `bcc` + `mel`) reaches
{chosen["malignancy_threshold"]:.4f}, the largest threshold with sensitivity
{config.decision.malignant_sensitivity:g} on {chosen["validation_pictures"]} validation pictures. On test that gives
sensitivity {_interval(figures["malignant_sensitivity"])} and specificity {_interval(figures["malignant_specificity"])}.

![Reliability](plots/{plots.RELIABILITY})"""


def _groups(found: dict[str, Any]) -> str:
    header = ["", "pictures (malignant)", "balanced accuracy", "malignant sensitivity", "malignant specificity"]
    parts = [f"### By group (test pictures of all collections together; fewer than {SMALLEST_GROUP} pictures: too few)"]
    for by, groups in found["test"]["groups"].items():
        if groups:
            rows = [_group_row(group, of) for group, of in groups.items()]
            parts.append(f"**{_GROUP_NAMES[by]}**\n\n{_table(header, rows)}")
    return "\n\n".join(parts)


def _group_row(group: str, of: dict[str, Any]) -> list[str]:
    size = [group, f"{of['pictures']} ({of['malignant']})"]
    if of.get("too_few"):
        return [*size, "too few", "too few", "too few"]
    return size + [_interval(of[n]) for n in ("balanced_accuracy", "malignant_sensitivity", "malignant_specificity")]


def _shapes(config: Config, found: dict[str, Any]) -> str:
    rows = [
        [
            of["shape"],
            of["resize"],
            *(_plain(of[n]) for n in ("balanced_accuracy", "malignant_auroc", "melanoma_auroc")),
        ]
        for of in found["shapes"]
    ]
    header = ["picture", "made square by", "balanced accuracy", "malignant AUROC", "melanoma AUROC"]
    pictures, natural = found["shapes"][0]["pictures"], found["test"]["natural_mix"]
    return f"""### How a picture becomes square

Measured with this one network on {pictures} validation pictures of {natural}, cut to three shapes from their true
proportions and made square in three ways ({", ".join(RESIZE_MODES)}). Chosen: {config.input.resize}.
3:4 is the 4:3 picture turned.

{_table(header, rows)}"""


def _limits(config: Config) -> str:
    skin = (
        "- The pictures show mostly light skin (Fitzpatrick I to III). Only MILK10k records the tone, "
        "on few pictures:\n  on dark skin the figures are not shown to hold.\n"
    )
    return f"""## Limits

{skin}- Pictures come from few clinics and from patients who were referred: lesions are more suspicious than
  in the street.
- Every threshold misses some malignant lesions. A benign answer is no reason to leave a changing lesion alone.
- Ink marks, rulers, hair, gel bubbles and dark corners can change the answer.
- Rare classes (`df`, `vasc`) have few test pictures: look at the width of their intervals.
- One training run with one seed; the spread between runs is not part of the intervals.
- The class mix of {config.data.natural_mix} stands for the clinic's; measure locally before relying on a
  probability."""


def _repeat(record: RunRecord, start: RunRecord | None, found: dict[str, Any]) -> str:
    commands = "\n".join(run.command for run in (start, record) if run)
    rows = [
        ["commit", record.commit],
        ["configuration", record.config_digest],
        ["data", record.data_digest],
        ["split", record.split_digest],
        ["seed", str(record.seed)],
        ["packages", ", ".join(f"{name} {version}" for name, version in record.packages.items())],
    ]
    return f"""## How to repeat

```
{commands}
```

{_table(["", ""], [[name, f"`{value}`"] for name, value in rows])}

The same machine type and thread count give the same weights; others differ by rounding. Graph and PyTorch agree within
{found["parity"]["largest_probability_difference"]:.1e} on {found["parity"]["pictures"]} test pictures."""


def _count(pictures: Iterable[Picture], parts: dict[str, str], code: str, part: str) -> int:
    return sum(picture.dx == code and parts[picture.image_id] == part for picture in pictures)


def _interval(figure: dict[str, float | None]) -> str:
    if figure["value"] is None:
        return "-"
    if figure["low"] is None or figure["high"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _table(header: Sequence[str], rows: Table) -> str:
    line: Callable[[Sequence[str]], str] = lambda cells: "| " + " | ".join(cells) + " |"  # noqa: E731
    return "\n".join([line(header), line(["---"] * len(header)), *map(line, rows)])
