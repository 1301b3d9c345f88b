"""A trained network -> a published version: calibrate, fit the gate, export, quantise, evaluate, publish."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from model_store.contract import manifest
from model_store.contract.manifest import Certainty, Variant, VariantName
from model_store.contract.preprocessing import to_input
from model_store.store import ModelStore, ModelVersion
from training.calibrate import OperatingPoint, calibrate, choose_gate, choose_quality, natural_log_prior
from training.earlier import all_teachers, starts
from training.evaluation import tables as evaluation
from training.evaluation.card import model_card
from training.evaluation.decision import Rules, qualities
from training.evaluation.plots import draw_plots
from training.evaluation.refusals import judge_outliers
from training.evaluation.report import Report, Tested, full_report, sensitivity_and_specificity
from training.evaluation.tables import classify
from training.export import (
    IN_DISTRIBUTION,
    OnnxClassifier,
    export_onnx,
    golden_vectors,
    require_parity,
)
from training.gates import GateHead, fit_gate
from training.generate import drawn_lesions
from training.network import EfficientNetLite, fold_batch_norms
from training.outliers import Outlier, outliers
from training.provenance import read_record
from training.publish import GRAPH_FILES, Chosen, publish, version_files
from training.quantise import compare, is_acceptable, quantise
from training.reference import reference_statistics
from training.render import in_batches
from training.rounding import RANGES, as_floats, learn_rounding
from training.run import Run
from training.train import EpochLog, predict_levels, predict_logits

_SAMPLE = 2400  # training pictures that the gate and the reference statistics are made from


def release(run: Run, network: EfficientNetLite, log: Sequence[EpochLog], store: ModelStore) -> ModelVersion:
    """Every step after the training. Raises ExportError (graph and network differ) and StoreError."""
    heading("Calibrating on validation")
    chosen = _calibrate(run, network)
    heading("Fitting the gate")
    sample = _training_sample(run)
    head, found = _fit_gate(run, network, sample)
    heading("Exporting to ONNX")
    export = partial(export_onnx, calibration=chosen.calibration, head=head, pixels=run.config.input.pixels)
    fp32 = export(network)
    rules, validation = _choose_rules(run, fp32, chosen)
    heading("Quantising")
    int8 = quantise(export(learn_rounding(network, sample, run.config.seed)), sample[:RANGES])
    graphs, variants = _variants(fp32, int8, validation)
    heading("Evaluating on test")
    content, report = _evaluate(run, network, graphs, chosen, rules, found)
    draw_plots(report, log, run.folder, run.config.data.natural_mix)
    heading("Publishing")
    reference = _reference(run, fp32, sample, validation, rules)
    return _publish(run, store, graphs, variants, _manifest_parts(run, chosen, rules, report), reference, content)


def _calibrate(run: Run, network: EfficientNetLite) -> OperatingPoint:
    pictures = run.natural_validation
    batches = run.renderer.batches(pictures, "validation")
    logits = predict_logits(network, map(as_floats, batches)).numpy()
    prior = natural_log_prior(run.pictures, run.parts, run.config.data.natural_mix)
    chosen = calibrate(logits, np.array([p.label for p in pictures], np.int64), prior, run.config.decision)
    tqdm.write(
        f"temperature {chosen.calibration.temperature:.3f}, prior share {chosen.calibration.prior_share:.2f} "
        f"with weight {chosen.calibration.prior_weight:.2f}, "
        f"malignancy threshold {chosen.threshold:.3f}, certainty by {chosen.certainty.measure}"
    )
    return chosen


def _training_sample(run: Run) -> NDArray[np.uint8]:
    """Some training pictures as the graph takes them, drawn evenly: uint8 [n, H, W, 3], in random order."""
    pictures = run.part("train")
    order = np.random.default_rng(run.config.seed).permutation(len(pictures))[:_SAMPLE]
    return np.concatenate(list(run.renderer.batches([pictures[i] for i in order], "training sample")))


def _fit_gate(run: Run, network: EfficientNetLite, sample: NDArray[np.uint8]) -> tuple[GateHead, list[Outlier]]:
    """The gate, and all outliers: the halves it was not fitted on are for the evaluation."""
    folded = fold_batch_norms(network)  # as in the graph

    def levels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return predict_levels(folded, map(as_floats, in_batches(images))).numpy()

    found = list(outliers(run.config.data, run.root, run.config.seed))
    by_kind: dict[str, list[NDArray[np.uint8]]] = defaultdict(list)
    for outlier in tqdm(found, "outliers", unit=" pictures", mininterval=1):
        if outlier.half == "fit":
            by_kind[outlier.kind].append(to_input(outlier.open(), run.renderer.contract))
    head = fit_gate(
        levels(sample),
        levels(np.stack([to_input(drawn, run.renderer.contract) for drawn in drawn_lesions()])),
        {kind: levels(np.stack(images)) for kind, images in by_kind.items()},
    )
    return head, found


def _choose_rules(run: Run, fp32: bytes, chosen: OperatingPoint) -> tuple[Rules, Tested]:
    """The limits of the gates, from validation pictures of every collection; and what the graph says to those."""
    pictures, decision = run.part("validation"), run.config.decision
    images = np.concatenate(list(run.renderer.batches(pictures, "validation")))
    validation = Tested.by(OnnxClassifier(fp32), pictures, images)
    scores: dict[str, list[float]] = defaultdict(list)
    for picture, score in zip(pictures, validation.outputs[IN_DISTRIBUTION].tolist(), strict=True):
        scores[picture.collection].append(score)
    by_collection = {name: np.array(values) for name, values in scores.items()}
    measured = qualities(images)
    sure = chosen.certainty
    rules = Rules(
        chosen.threshold,
        chosen.reference_prevalence,
        Certainty(
            measure=sure.measure, class_weights=sure.class_weights, threshold=sure.threshold, coverage=sure.coverage
        ),
        choose_gate(by_collection, decision.refused_share, decision.warned_share),
        choose_quality(measured, decision.quality_refused_share, decision.min_side_pixels),
    )
    return rules, validation


def _variants(
    fp32: bytes, int8: bytes, validation: Tested
) -> tuple[dict[VariantName, bytes], dict[VariantName, Variant]]:
    """The graphs that are published, and what each costs on the validation pictures of all collections: the natural mix
    alone has so few of the rare classes that one picture more or less wrong would decide.
    """
    graphs: dict[VariantName, bytes] = {"fp32": fp32}
    variants = {"fp32": Variant(file=GRAPH_FILES["fp32"], probability_shift_p99=0.0, balanced_accuracy_loss=0.0)}
    plain = validation.predictions
    quantised = classify(OnnxClassifier(int8), in_batches(validation.images))
    variant = compare(GRAPH_FILES["int8"], plain.probabilities, quantised, plain.labels)
    tqdm.write(
        f"int8: balanced accuracy {-variant.balanced_accuracy_loss:+.4f}, probabilities move by "
        f"{variant.probability_shift_p99:.3f} at most in 99 of 100 pictures"
    )
    if is_acceptable(variant):
        return graphs | {"int8": int8}, variants | {"int8": variant}  # type: ignore[return-value]
    tqdm.write("int8 is not published: it loses too much")
    return graphs, variants  # type: ignore[return-value]


def _evaluate(
    run: Run,
    network: EfficientNetLite,
    graphs: Mapping[VariantName, bytes],
    chosen: OperatingPoint,
    rules: Rules,
    found: Sequence[Outlier],
) -> tuple[dict[str, Any], Report]:
    """The evaluation file's content, and what the plots are drawn from. Raises ExportError."""
    test, classifier = run.part("test"), OnnxClassifier(graphs["fp32"])
    tested = Tested.by(classifier, test, np.concatenate(list(run.renderer.batches(test, "test"))))
    logits = predict_logits(network, map(as_floats, in_batches(tested.images))).numpy()
    reference = evaluation.Predictions(test, chosen.calibration.probabilities(logits))
    difference = require_parity(tested.predictions.probabilities, reference.probabilities)
    outside = judge_outliers(classifier, found, run.renderer.contract, rules.quality)
    report = full_report(graphs, tested, run.config, rules, run.renderer, outside)
    content = {
        "model": run.config.name,
        "provenance": {
            "config_digest": run.record.config_digest,
            "data_digest": run.record.data_digest,
            "split_digest": run.record.split_digest,
            "seed": run.record.seed,
        },
        "calibration": chosen.as_json(),
        **report.found,
        "parity": {
            "pictures": len(test),
            "largest_probability_difference": difference,
            "figures": evaluation.compare_with_network(tested.predictions, reference, run.config, chosen.threshold),
        },
        "shapes": evaluation.measure_shapes(classifier, run.natural_validation, run.config),
    }
    headline = report.found["test"]["collections"][run.config.data.natural_mix]
    tqdm.write(", ".join(f"{name.replace('_', ' ')} {_short(headline[name])}" for name in evaluation.HEADLINE))
    return content, report


def _reference(run: Run, fp32: bytes, sample: NDArray[np.uint8], validation: Tested, rules: Rules) -> dict[str, Any]:
    """What drift alarms compare with: training pictures as they look, unseen ones as they are answered."""
    natural = np.array([picture.collection == run.config.data.natural_mix for picture in validation.pictures])
    training = Tested.by(OnnxClassifier(fp32), run.part("train")[: len(sample)], sample)
    unseen = {name: values[natural] for name, values in validation.outputs.items()}
    return reference_statistics(
        (qualities(sample), training.outputs),
        (qualities(validation.images[natural]), unseen),
        rules.certainty,
    )


def _manifest_parts(run: Run, chosen: OperatingPoint, rules: Rules, report: Report) -> Chosen:
    sensitivity, specificity = sensitivity_and_specificity(report)
    return Chosen(
        calibration=manifest.Calibration(
            temperature=chosen.calibration.temperature,
            prior_share=chosen.calibration.prior_share,
            prior_weight=chosen.calibration.prior_weight,
            prior=chosen.calibration.prior,
            reference_prevalence=chosen.reference_prevalence,
        ),
        malignancy=manifest.Malignancy(
            threshold=chosen.threshold,
            target_sensitivity=run.config.decision.malignant_sensitivity,
            sensitivity=sensitivity,
            specificity=specificity,
        ),
        certainty=rules.certainty,
        in_distribution=rules.in_distribution,
        quality=rules.quality,
    )


def _publish(
    run: Run,
    store: ModelStore,
    graphs: Mapping[VariantName, bytes],
    variants: Mapping[VariantName, Variant],
    chosen: Chosen,
    reference: dict[str, Any],
    content: dict[str, Any],
) -> ModelVersion:
    contract = run.renderer.contract
    golden = golden_vectors(graphs, contract)
    start_runs = starts(run.folder, run.config)
    records = [read_record(start) for start in reversed(start_runs)]
    card = model_card(run.config, run.record, records, content, run.pictures, run.parts)
    earlier = (start_runs, all_teachers(run.folder, run.config))
    files = version_files(run.folder, *earlier, graphs, golden, reference, content, card)
    return publish(store, run.config, run.record, contract, chosen, variants, files)


def _short(figure: dict[str, float | None]) -> str:
    value = figure["value"]
    return "none" if value is None else f"{value:.3f}"


def heading(text: str) -> None:
    """Says which step begins."""
    tqdm.write(f"\n== {text}")
