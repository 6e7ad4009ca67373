"""How well P, QRS and T waves are found: a table of their onsets and offsets, and a picture."""

from ludb import WAVES

from torch_semimarkov import metrics, plots


def coded(segments, vocabulary):
    """Segments with label numbers for names."""
    return [(start, end, vocabulary.encode(label)) for start, end, label in segments]


def score(saved, test, predictions):
    """One row a wave and side."""
    code, rate = saved.vocabulary.encode, test[0].sample_rate
    true = [saved.vocabulary.encode_record(record) for record in test]
    found = [coded(p.segments, saved.vocabulary) for p in predictions]
    overlap = metrics.segment_scores(true, found, iou=0.5, labels=[code(w) for w in WAVES])
    for wave, kind in ((wave, kind) for wave in WAVES for kind in ("onset", "offset")):
        wide, near = (
            metrics.boundary_scores(true, found, ms, kind=kind, sample_rate=rate, unit="ms")
            for ms in (150.0, 20.0)
        )
        wide, near = wide.per_label[code(wave)], near.per_label[code(wave)]
        yield {
            "model": saved.model.architecture.head, "boundary": f"{wave} {kind}",
            "F1 150 ms": 100 * wide.f1, "F1 20 ms": 100 * near.f1, "mean ms": wide.error_mean,
            "sd ms": wide.error_sd, "segment F1": 100 * overlap.per_label[code(wave)].f1,
        }  # fmt: skip


def draw(prediction, vocabulary, path):
    """The first ten seconds at most of one test record."""
    record = prediction.record
    true = vocabulary.encode_record(record)
    found = coded(prediction.segments, vocabulary)
    figure = plots.plot_segmentation(
        record.features.mean(1), true, found, prediction.labels, prediction.boundaries,
        vocabulary.names, record.sample_rate, f"LUDB record {record.name}",
    )  # fmt: skip
    figure.axes[0].set_ylabel("lead II (sd)")
    plots.save_figure(figure, path)
