"""Files in, files out: records, readers, writers, and synthetic data.

Nothing here loads ``wfdb`` before a WFDB file is read or written.
"""

from torch_semimarkov.data.files import atomic_path, atomic_write, unpack
from torch_semimarkov.data.readers import (
    READERS,
    ReadOptions,
    read_any,
    read_folder,
    read_npz,
    record_paths,
)
from torch_semimarkov.data.records import (
    Batch,
    LabelVocabulary,
    NamedSegment,
    Record,
    collate,
    natural_key,
    segments_from_runs,
)
from torch_semimarkov.data.suggest import (
    DurationSuggestion,
    LabelDurations,
    split_long_segments,
    suggest_max_duration,
)
from torch_semimarkov.data.synthetic import SyntheticProcess, make_synthetic, synthetic_process
from torch_semimarkov.data.tables import SegmentTable, read_segments, read_table
from torch_semimarkov.data.waves import WAVE_SYMBOLS
from torch_semimarkov.data.wfdb_files import read_wfdb, write_wfdb_annotations
from torch_semimarkov.data.writers import write_segments_json, write_segments_tsv

__all__ = [
    "READERS",
    "WAVE_SYMBOLS",
    "Batch",
    "DurationSuggestion",
    "LabelDurations",
    "LabelVocabulary",
    "NamedSegment",
    "ReadOptions",
    "Record",
    "SegmentTable",
    "SyntheticProcess",
    "atomic_path",
    "atomic_write",
    "collate",
    "make_synthetic",
    "natural_key",
    "read_any",
    "read_folder",
    "read_npz",
    "read_segments",
    "read_table",
    "read_wfdb",
    "record_paths",
    "segments_from_runs",
    "split_long_segments",
    "suggest_max_duration",
    "synthetic_process",
    "unpack",
    "write_segments_json",
    "write_segments_tsv",
    "write_wfdb_annotations",
]
