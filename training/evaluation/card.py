"""MODEL_CARD.md (Mitchell et al., arXiv:1810.03993), generated, so that no figure is typed by hand."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from model_store.lesions import lesions
from training.config import Config
from training.data import PARTS, Picture
from training.evaluation import plots
from training.evaluation.decision import DECISIONS
from training.evaluation.tables import HEADLINE, RESIZE_MODES, SMALLEST_GROUP, SMALLEST_KIND
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
_GROUP_FIGURES = {
    "balanced_accuracy": "balanced accuracy",
    "malignant_auroc": "malignant AUROC",
    "malignant_sensitivity": "malignant sensitivity",
    "malignant_specificity": "malignant specificity",
}
_REASONS = {
    "not_a_lesion": "taken for no lesion",
    "poor_quality": "poor picture quality",
    "unfamiliar": "unlike the training pictures",
    "uncertain": "uncertain diagnosis",
}
_RARE_CLASS = 30  # test pictures of the natural mix; below that an interval is wider than 0.3
_SKIN_TONES = tuple("012345")  # as MILK10k records them
Table = Sequence[Sequence[str]]


def model_card(
    config: Config,
    record: RunRecord,
    starts: Sequence[RunRecord],
    found: dict[str, Any],
    pictures: Sequence[Picture],
    parts: dict[str, str],
) -> str:
    """The card as Markdown; plots are named relative to it. `starts`: the runs before, the first first."""
    sections = (
        _summary(config, found),
        _use(config),
        _data(config, pictures, parts),
        _training(config, record),
        _headline(found),
        _classes(found),
        _decision(config, found),
        _abstaining(found),
        _groups(found),
        _not_shown(config, found),
        _robustness(found),
        _shapes(config, found),
        _gates(found),
        _explanation(found),
        _variants(config, found),
        _limits(config),
        _repeat(record, starts, found),
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
and diagnoses outside the seven classes, which it cannot name: the gates stop some of them (section *Gates*), to the
others it answers with one of the seven. Probabilities assume the class mix of {natural}; where malignant lesions are
more or less frequent, give the site's prevalence."""


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
    looks = "at the picture and at its mirror image and averages" if config.input.mirror else "at the picture once"
    return f"""## Training

Started from the weights of {weights}. {_teachers(config)}
Epochs: {stages}; batches of {config.train.batch_size}, AdamW with learning rate {config.train.learning_rate:g},
cosine schedule, bfloat16 where the machine computes in it, exponential moving average of the weights
({config.train.ema_decay:g}), on {device}.
Views are turned, mirrored, zoomed and cut to other picture shapes; colour, focus, noise, dark corners and erased
patches vary. Class imbalance is met by logit adjustment with each collection's own class frequencies
(arXiv:2007.07314, strength {config.train.prior_strength:g}). `config.toml` has every value, `log.csv` every epoch.
The graph looks {looks}.

![Training curves](plots/{plots.TRAINING})"""


def _teachers(config: Config) -> str:
    if not config.distillation:
        return ""
    names = ", ".join(f"`{name}`" for name in config.distillation.teachers)
    share = f"{config.distillation.weight:.0%}"
    return f"""Learnt from the diagnoses and, with {share} of the loss, from the mean answer
of the runs {names} (their records: `teachers/`; distillation, arXiv:1503.02531)."""


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
    error = _interval(figures["expected_calibration_error"])
    return f"""### Calibration and threshold

probabilities = {1 - chosen["prior_weight"]:.2f} x softmax(z) + {chosen["prior_weight"]:.2f} x softmax(z +
{chosen["prior_share"]:.2f} x log prior), with z = logits / {chosen["temperature"]:.3f} and the prior
{prior}.
Adding all of the prior calibrates best, adding none finds rare classes best, and a mixture lets frequency speak for the
second diagnosis; it is the one with the best balanced accuracy on validation, where expected calibration error beyond
{config.decision.ece_limit:g}{_top2_limit(config)} counts against it (`evaluation.json` has the whole table).
Expected calibration error on test: {error} (the interval lies high: resampling adds noise to every bin).

A lesion is flagged when its malignancy probability (`akiec` + `bcc` + `mel`) reaches
{chosen["malignancy_threshold"]:.4f}, the largest threshold with sensitivity
{config.decision.malignant_sensitivity:g} on {chosen["validation_pictures"]} validation pictures. On test that gives
sensitivity {_interval(figures["malignant_sensitivity"])} and specificity {_interval(figures["malignant_specificity"])}.

{_table(["", "as answered", "shifted to the natural prevalence"], _calibration_rows(found["reliability"]))}

The answers are right for a malignant share of {found["reliability"]["reference_prevalence"]:.3f}; in these pictures it
is {found["reliability"]["natural_prevalence"]:.3f}.

![Reliability](plots/{plots.RELIABILITY})"""


def _top2_limit(config: Config) -> str:
    return f" and top-2 accuracy below {config.decision.top2_limit:g}" if config.decision.top2_limit else ""


def _calibration_rows(found: dict[str, Any]) -> Table:
    names = {
        "expected_calibration_error": "Expected calibration error, most probable class",
        "malignancy_calibration_error": "Expected calibration error, malignancy",
        "mean_malignancy": "Mean malignancy probability",
        "malignancy_brier": "Brier score, malignancy",
        "brier": "Brier score, seven classes (0 to 2)",
        "negative_log_likelihood": "Negative log likelihood (nats)",
    }
    columns = [found[column] for column in ("as_answered", "at_natural_prevalence") if column in found]
    blank = ["-"] * (2 - len(columns))
    return [[label, *(_interval(column[name]) for column in columns), *blank] for name, label in names.items()]


def _abstaining(found: dict[str, Any]) -> str:
    decision, selective = found["decision"], found["selective"]
    counts = [
        [f"`{name}`", str(of["malignant"]), str(of["benign"]), _interval(decision["shares"][name])]
        for name in DECISIONS
        for of in [decision["counts"][name]]
    ]
    reasons = ", ".join(f"{_REASONS[reason]} {count}" for reason, count in decision["abstain_reasons"].items())
    values = [
        [f"{float(p):.0%}", *(_interval(of[f"{d}_predictive_value"]) for d in ("refer_positive", "low_risk_negative"))]
        for p, of in decision["by_prevalence"].items()
    ]
    return f"""### Refer, low risk or abstain

On {decision["pictures"]} test pictures, {decision["prevalence"]:.1%} of them malignant:

{_table(["decision", "malignant", "benign", "share of all"], counts)}

Of the malignant lesions {_interval(decision["malignant_referred_or_abstained"])} are not called low risk, of the
melanomas {_interval(decision["melanoma_referred_or_abstained"])}; of the benign ones
{_interval(decision["benign_low_risk"])} are. Reasons to abstain (several may hold): {reasons}.
What an answer is worth where another share of the lesions is malignant:

{_table(["malignant share", "malignant, given `refer`", "benign, given `low_risk`"], values)}

An answer counts as uncertain by its {selective["measure"].replace("_", " ")}. All first diagnoses are wrong in
{_interval(selective["error"])}, the 80 % most certain in
{_interval(selective["error_of_most_certain_80_percent"])}: {_interval(selective["ratio_to_error"])} times as often.

![Error among the most certain answers](plots/{plots.SELECTIVE})"""


def _groups(found: dict[str, Any]) -> str:
    header = ["", "pictures (malignant)", *_GROUP_FIGURES.values()]
    parts = [
        "### By group (test pictures of all collections together)",
        f"Too few: fewer than {SMALLEST_GROUP} pictures, or fewer than {SMALLEST_KIND} malignant (benign) ones for "
        "what is a share of them.",
    ]
    for by, groups in found["test"]["groups"].items():
        if groups:
            rows = [_group_row(group, of) for group, of in groups.items()]
            parts.append(f"**{_GROUP_NAMES[by]}**\n\n{_table(header, rows)}")
    return "\n\n".join(parts)


def _group_row(group: str, of: dict[str, Any]) -> list[str]:
    figures = [of.get(name) for name in _GROUP_FIGURES]
    return [group, f"{of['pictures']} ({of['malignant']})", *(_interval(f) if f else "too few" for f in figures)]


def _not_shown(config: Config, found: dict[str, Any]) -> str:
    """Named from the figures themselves, so that no group is forgotten."""
    groups, natural = found["test"]["groups"], found["test"]["natural_mix"]
    tones = groups["skin_tone"]
    dark = [tone for tone in _SKIN_TONES if tone not in tones or not tones[tone].get("malignant_sensitivity")]
    lines = [
        f"- **Skin tones** {', '.join(dark)} (0 darkest, 5 lightest): too few malignant test pictures to tell how many "
        "of them are found."
        if dark
        else "- **Skin tone**: each has some pictures, yet few; look at the width of the intervals."
    ]
    lines.append("  Most pictures carry no skin tone at all and show light skin (Fitzpatrick I to III).")
    for by, what in (("age", "Ages (years)"), ("sex", "Sexes"), ("site", "Body sites")):
        few = [group for group, of in groups[by].items() if not of.get("malignant_sensitivity")]
        if few:
            lines.append(f"- **{what}** with too few malignant test pictures: {', '.join(few)}.")
    rare = {code: of["pictures"] for code, of in found["test"]["collections"][natural]["classes"].items()}
    few = [f"`{code}` ({count})" for code, count in rare.items() if count < _RARE_CLASS]
    if few:
        lines.append(f"- **Rare diagnoses**, fewer than {_RARE_CLASS} test pictures in {natural}: {', '.join(few)}.")
    worse = _below_target(groups, config.decision.malignant_sensitivity)
    if worse:
        lines.append(f"- **Shown to miss more** than the target of {config.decision.malignant_sensitivity:g}: {worse}.")
    names = ", ".join(found["test"]["collections"])
    lines.append(f"- **Other cameras and clinics**: the figures are of {names}. A new one needs a test of its own.")
    lines.append("- **Children, pregnant patients, lesions treated before**: the collections do not say who they are.")
    return "### For whom it is not shown to work\n\n" + "\n".join(lines)


def _below_target(groups: dict[str, Any], target: float) -> str:
    """Groups whose interval of malignant sensitivity lies below the target."""
    found = [
        f"{_GROUP_NAMES[by].split(' (')[0].lower()} {group} ({_interval(of['malignant_sensitivity'])})"
        for by, of_groups in groups.items()
        for group, of in of_groups.items()
        if of.get("malignant_sensitivity") and of["malignant_sensitivity"]["high"] < target
    ]
    return ", ".join(found)


def _robustness(found: dict[str, Any]) -> str:
    robustness, stability = found["robustness"], found["stability"]
    rows = [_worst_row(name, curve) for name, curve in robustness["curves"].items()]
    views = [
        [
            view,
            *(f"{of[name]:.3f}" for name in ("median_largest_change", "p95_largest_change")),
            *(_interval(of[name]) for name in ("same_first_diagnosis", "same_malignancy_decision")),
        ]
        for view, of in stability["views"].items()
    ]
    header = ["change", "worst level", "balanced accuracy", "malignant AUROC", "malignant sensitivity", "refused"]
    changes = ["view", "median change", "95th percentile", "same first diagnosis", "same malignancy decision"]
    return f"""### Robustness

How far a picture may be from a good one. Each row is the level that costs most balanced accuracy, on
{robustness["pictures"]} test pictures weighted to the natural mix; *refused* is what a gate keeps out at that level.

{_table(header, rows)}

![Robustness](plots/{plots.ROBUSTNESS})

### Stability

The same picture seen otherwise, {stability["pictures"]} test pictures: the largest change of any of the seven
probabilities, and how often the answer stays.

{_table(changes, views)}"""


def _worst_row(name: str, curve: dict[str, Any]) -> list[str]:
    levels = [row for row in curve["levels"] if row["level"] != curve["unchanged"]]
    worst = min(levels, key=lambda row: row["balanced_accuracy"]["value"])
    figures = ("balanced_accuracy", "malignant_auroc", "malignant_sensitivity", "refused")
    return [name, f"{worst['level']:g} ({curve['unit']})", *(_interval(worst[figure]) for figure in figures)]


def _gates(found: dict[str, Any]) -> str:
    gates = found["gates"]
    lesions, limits = gates["lesions"], gates["limits"]
    rows = [
        [
            kind.replace("_", " "),
            str(of["pictures"]),
            *(_interval(of[n]) for n in ("auroc", "refused", "refused_or_unfamiliar")),
        ]
        for kind, of in gates["outliers"].items()
    ]
    groups = [
        [
            f"{by.replace('_', ' ')} {group}",
            str(of["pictures"]),
            "too few" if of.get("too_few") else _interval(of["refused"]),
        ]
        for by, of_groups in gates["groups"].items()
        for group, of in of_groups.items()
    ]
    return f"""## Gates

The answer carries no diagnosis below an in-distribution score of {limits["refuse_below"]:.3g}, and abstains on poor
quality and below {limits["warn_below"]:.3g} (unless the lesion is flagged as malignant). Of {lesions["pictures"]} test
lesions {_interval(lesions["refused_as_no_lesion"])} are taken for no lesion and
{_interval(lesions["refused_for_quality"])} are refused for quality. Kinds of picture that are none of the seven classes
(none of these was the gate fitted on):

{_table(["kind", "pictures", "AUROC against lesions", "refused", "refused or unfamiliar"], rows)}

Lesions refused, by group, as a gate must not close to some patients only:

{_table(["lesions of", "pictures", "refused"], groups)}

![Gates](plots/{plots.GATES})"""


def _explanation(found: dict[str, Any]) -> str:
    checks = found["explanation"]
    correlation, place = checks["rank_correlation_with_shuffled_weights"], checks["on_the_lesion"]
    shuffled = ", ".join(
        f"{of['median']:.2f} (5 to 95 %: {of['p5']:.2f} to {of['p95']:.2f}) with {name} shuffled"
        for name, of in correlation.items()
    )
    where = "No lesion could be outlined by thresholding."
    if place["pictures"]:
        where = f"""On {place["pictures"]} pictures whose lesion simple thresholding outlines,
{_interval(place["map"])} of the positive evidence falls on the lesion; of a blob in the middle of the picture, as
widely spread, {_interval(place["centred_blob"])}; of an even map {_interval(place["even"])}. The map beats the blob in
{_interval(place["map_beats_blob"])} of these pictures."""
    return f"""## Explanation

The class map says which parts of the picture added to a class, on a grid of {checks["grid"]} cells. **It is an aid that
shows where the network looked, no evidence for a diagnosis**: a wrong answer has a map that looks as convincing.

Does it hang on what was learnt? With the weights shuffled, {checks["shuffles"]} times, the rank correlation with the
map of the same class is in the median {shuffled}; 1 would mean that the weights do not matter.
{where}"""


def _variants(config: Config, found: dict[str, Any]) -> str:
    natural, parts = config.data.natural_mix, ["## Number formats\n"]
    if not found["variants"]:
        return parts[0] + "\nThe version holds the float32 graph alone."
    for name, mixes in found["variants"].items():
        of = mixes[natural]
        rows = [
            [_FIGURE_NAMES[figure], *(_interval(values[side]) for side in ("a", "b", "difference"))]
            for figure, values in of["figures"].items()
        ]
        change = of["largest_probability_change"]
        parts.append(f"""{name} has weights of its own: fp32's, after they have learnt on training pictures,
without labels, to give the same features and diagnoses when they are rounded.

{_table([natural, "fp32", name, f"{name} less fp32, paired"], rows)}

The largest change of a probability is {change["p50"]:.3f} in the median and {change["p99"]:.3f} at the 99th percentile
of {of["pictures"]} test pictures; the first diagnosis is the same in {of["same_first_diagnosis"]:.1%}.""")
    return "\n".join(parts)


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
    return f"""## Limits

- Pictures come from few clinics and from patients who were referred: lesions are more suspicious than
  in the street.
- Every threshold misses some malignant lesions. A benign answer is no reason to leave a changing lesion alone.
- Ink marks, rulers, hair, gel bubbles and dark corners can change the answer (section *Robustness*).
- One training run with one seed; the spread between runs is not part of the intervals.
- The class mix of {config.data.natural_mix} stands for the clinic's; measure locally before relying on a
  probability."""


def _repeat(record: RunRecord, starts: Sequence[RunRecord], found: dict[str, Any]) -> str:
    commands = "\n".join(run.command for run in (*starts, record))
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
