"""What `--help` shows beside the options themselves: a line, examples and groups per command.

The words of an option stand with the option. What stands here is read across commands: the list of
commands, which options belong together, and what people type. A test holds that every option of a
grouped command is in one group, and that every example is a command that parses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["START", "TEXTS", "CommandText"]


@dataclass(frozen=True)
class CommandText:
    """How the help of a command is laid out.

    Attributes:
        line: The command in the list of commands, at most 62 letters.
        examples: What people type, at least two.
        groups: Title -> options, in the order of use; empty for a command of few options.
    """

    line: str
    examples: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


START = """\
What do you have?
  nothing yet            spade-bench demo --out demo
  features and a csv     spade-bench run --encoder NAME --task my_task --table cases.csv \\
                           --features features/ --out runs/
                         spade-bench report runs/
  slides                 spade-bench extract --encoder efficientnet-lite0 --slides slides/ \\
                           --out features/
  sections of Visium     spade-bench pretrain --hest hest/ --encoder efficientnet-lite0 \\
                           --out spade/
`spade-bench doctor` says what works on this machine, `spade-bench COMMAND --help` shows examples.
All commands: spade-bench --help
"""

_COLUMNS = (
    "--case-column",
    "--slide-column",
    "--label-column",
    "--event-column",
    "--days-column",
    "--event-value",
    "--match-ids",
)
_REGIONS = ("--regions", "--region-name", "--region-share")
_MACHINE = "Machine"
_WORKERS = "Several workers"
_OUTPUT = "Output"

TEXTS: dict[str, CommandText] = {
    "list": CommandText(
        "List encoders, tasks or heads",
        ("spade-bench list encoders", "spade-bench list tasks --json"),
    ),
    "show": CommandText(
        "Show the card of one: licence, gate, weights, training data",
        ("spade-bench show encoder uni", "spade-bench show task crc_braf"),
    ),
    "doctor": CommandText(
        "Say what works here, and what to type where it does not",
        ("spade-bench doctor", "spade-bench doctor uni conch --json"),
    ),
    "check": CommandText(
        "Check that an encoder or a head keeps the contract",
        (
            "spade-bench check encoder efficientnet-lite0",
            "spade-bench check head my-head --plugin my_head.py",
        ),
    ),
    "init": CommandText(
        "Write a workspace file, so that commands need no flags",
        (
            "spade-bench init",
            "spade-bench init study/ --task crc_braf --table cases.csv --features features/ "
            "--encoder uni",
        ),
    ),
    "simulate": CommandText(
        "Simulate slides, sections and tables with a known truth",
        (
            "spade-bench simulate study/ --size tiny",
            "spade-bench simulate study/ --size small --seed 3 --coupling 0",
        ),
    ),
    "extract": CommandText(
        "Slides, sections or patch images in, features out",
        (
            "spade-bench extract --encoder efficientnet-lite0 --slides slides/ --out features/",
            "spade-bench extract --encoder uni --slides slides/ --mpp 0.5 --drop-pen "
            "--out features/",
        ),
        {
            "Input": (
                "--slides", "--hest", "--manifest", "--patches", "--group-by", "--trust",
                "--shard",
            ),
            "Encoder": (
                "--encoder", "--weights", "--revision", "--trust-remote-code", "--precision",
                "--seed",
            ),
            "Resolution and patches": (
                "--mpp", "--assume-mpp", "--override-mpp", "--series", "--overlap",
                "--min-tissue", "--drop-pen", "--drop-blur",
            ),
            _OUTPUT: ("--out", "--preview", "--write-table"),
            _MACHINE: ("--device", "--batch-size", "--workers"),
            _WORKERS: (
                "--executor", "--gpus", "--ray-address", "--ray", "--slurm", "--script",
            ),
        },
    ),
    "pretrain": CommandText(
        "Train SPADE on sections, or TANGLE on bulk expression",
        (
            "spade-bench pretrain --hest hest/ --encoder efficientnet-lite0 --out spade/",
            "spade-bench pretrain --hest hest/ --encoder uni --config hest1k --out spade-uni/ "
            "--set training.epochs=30",
        ),
        {
            "Data": (
                "--hest", "--manifest", "--spaceranger", "--xenium", "--features", "--table",
                "--exclude-task",
            ),
            "Model": ("--encoder", "--weights", "--config", "--set", "--seed"),
            "Experts": ("--experts", "--scan-k"),
            _OUTPUT: ("--out", "--overwrite"),
            _MACHINE: ("--device", "--workers"),
            _WORKERS: (
                "--executor", "--gpus", "--ray-address", "--ray", "--slurm",
            ),
        },
    ),
    "import-spade": CommandText(
        "Import the public SPADE release",
        (
            "spade-bench import-spade --checkpoints release/ --centroids centroids.npy "
            "--clusters clusters.npy --out spade/",
            "spade-bench import-spade --checkpoints release/ --centroids centroids.npy "
            "--clusters clusters.npy --genes genes.csv --base-encoder uni --out spade/",
        ),
    ),
    "encode": CommandText(
        "Base features in, features of SPADE or a slide encoder out",
        (
            "spade-bench encode --encoder spade --weights spade/ --features features/ "
            "--out features-spade/",
            "spade-bench encode --encoder mean-pool --features features/ --out slides/",
        ),
        {
            "Input": ("--features",),
            "Encoder": ("--encoder", "--weights", "--revision", "--trust-remote-code"),
            "Routing of SPADE": ("--routing", "--tau", "--with-routing"),
            _OUTPUT: ("--out",),
            _MACHINE: ("--device", "--batch-size"),
            _WORKERS: (
                "--executor", "--workers", "--gpus", "--ray-address", "--ray", "--slurm",
                "--script",
            ),
        },
    ),
    "pack": CommandText(
        "Pack features into one file that opens at once",
        (
            "spade-bench pack --features features/ --out features.pack",
            "spade-bench pack --features features/ --out features.pack --float32",
        ),
    ),
    "cohort": CommandText(
        "Make a task's table from downloaded label files",
        (
            "spade-bench cohort --json",
            "spade-bench cohort --task crc_braf --labels mutations.txt --slides slides/ "
            "--out crc_braf.csv",
        ),
        {
            "Input": ("--task", "--labels", "--slides", "--case-column", "--slide-column"),
            "Rules": (
                "--rule", "--endpoint", "--variant", "--sample-type", "--slide-type",
                "--keep-redacted", "--keep-zero-times",
            ),
            _OUTPUT: ("--out", "--json"),
        },
    ),
    "validate": CommandText(
        "Look for what spoils results quietly, before a run",
        (
            "spade-bench validate --table cases.csv --features features/",
            "spade-bench validate --table cases.csv --features features/ --event-value dead "
            "--write-table clean.csv",
        ),
        {
            "Input": ("--table", "--features", "--task", "--encoder", "--splits"),
            "Columns of the table": _COLUMNS,
            _OUTPUT: ("--write-table", "--json"),
        },
    ),
    "run": CommandText(
        "Run encoders on tasks; the same command again continues",
        (
            "spade-bench run --encoder uni --task crc_braf --table cases.csv "
            "--features features/ --out runs/",
            "spade-bench run --encoder uni --encoder spade --weights spade=spade/ "
            "--task crc_braf --table cases.csv --features features/ --head abmil --protocol cv "
            "--out runs/",
            "spade-bench run --config sweep.yaml --out runs/ --executor slurm --workers 40 "
            "--slurm partition=gpu,gpus=1,time=4:00:00",
        ),
        {
            "What": ("--encoder", "--task", "--head", "--config", "--set"),
            "Data": (
                "--table", "--features", "--weights", "--test-table", "--test-features",
                "--splits", "--bench-root", "--allow-missing", "--positive", "--as-is",
                "--pretrained-on",
            ),
            "Columns of the table": _COLUMNS,
            "Regions": _REGIONS,
            "Protocol": (
                "--protocol", "--shots", "--draws", "--folds", "--repeats", "--holdout",
                "--group-by-site", "--preserve-sites", "--select", "--seed",
                "--allow-leaky-splits",
            ),
            "Controls": ("--controls", "--permutations"),
            _OUTPUT: ("--out", "--keep-heads", "--dry-run"),
            _MACHINE: (
                "--device", "--memory", "--cache", "--shard", "--trust-remote-code",
            ),
            _WORKERS: (
                "--executor", "--workers", "--gpus", "--ray-address", "--ray", "--slurm",
                "--script",
            ),
        },
    ),
    "fit": CommandText(
        "Train a head on all cases and keep it",
        (
            "spade-bench fit --encoder uni --task crc_braf --table cases.csv "
            "--features features/ --head abmil --out model/",
            "spade-bench fit --encoder spade --weights spade/ --task os --table cases.csv "
            "--features features/ --head cox --out model/",
        ),
        {
            "What": ("--encoder", "--task", "--head", "--set", "--select"),
            "Data": (
                "--table", "--features", "--weights", "--allow-missing", "--positive", "--as-is",
            ),
            "Columns of the table": _COLUMNS,
            "Regions": _REGIONS,
            _OUTPUT: ("--out",),
            _MACHINE: ("--seed", "--device", "--trust-remote-code"),
        },
    ),
    "predict": CommandText(
        "Predict new cases with a kept model",
        (
            "spade-bench predict model/ --features features/ --out predictions.csv",
            "spade-bench predict model/ --slides slides/ --features-out features/ "
            "--out predictions.csv",
        ),
    ),
    "explain": CommandText(
        "Maps of what each patch of a slide did to a prediction",
        (
            "spade-bench explain runs/ --slides slides/ --features features/ --out maps/",
            "spade-bench explain model/ --slides slides/ --features features/ --case CASE-1 "
            "--viewer --geojson --out maps/",
            "spade-bench explain spade/ --slides slides/ --features features/ --genes MKI67,CD74 "
            "--out experts/",
        ),
        {
            "Input": ("--slides", "--patches", "--features", "--case", "--table", "--weights"),
            "Which models of a run": (
                "--encoder", "--against", "--task", "--head", "--shots", "--protocol",
                "--trained-too",
            ),
            "Pictures": ("--pictures", "--top", "--blind"),
            "Regions": ("--regions", "--region-name", "--inside"),
            "QuPath and viewer": (
                "--geojson", "--gzip", "--max-detections", "--viewer", "--viewer-px",
            ),
            "Experts of SPADE": ("--genes", "--training-spots"),
            _OUTPUT: ("--out", "--json"),
            _MACHINE: ("--device",),
        },
    ),
    "robustness": CommandText(
        "Measure whether features follow biology or the site",
        (
            "spade-bench robustness --encoder uni --task crc_braf --table cases.csv "
            "--features features/ --out robustness/",
            "spade-bench robustness --encoder uni --encoder spade --weights spade/ "
            "--table cases.csv --features features/ --by scanner --out robustness/",
        ),
        {
            "What": ("--encoder", "--weights", "--task", "--by", "--set"),
            "Data": (
                "--table", "--features", "--patches", "--group-by", "--allow-missing", "--as-is",
            ),
            "Columns of the table": (
                "--case-column", "--slide-column", "--label-column", "--match-ids",
            ),
            "Measure": (
                "--points", "--per-slide", "--k", "--strength", "--controls", "--seed",
            ),
            _OUTPUT: ("--out", "--figures", "--json"),
            _MACHINE: ("--device", "--trust-remote-code"),
        },
    ),
    "report": CommandText(
        "Tables, figures and a page of what is stored",
        (
            "spade-bench report runs/",
            "spade-bench report runs/ --html report.html --figures pdf,png",
            "spade-bench report runs/ --latex --out table.tex",
        ),
        {
            "What": ("--metric", "--by", "--table", "--published"),
            "Form": ("--json", "--csv", "--markdown", "--latex", "--long", "--out"),
            "Pictures and page": ("--plots", "--figures", "--html", "--maps"),
        },
    ),
    "compare": CommandText(
        "Compare two encoders on the same episodes and cases",
        (
            "spade-bench compare runs/ --a spade --b uni",
            "spade-bench compare runs/ --a spade --b uni --latex --out table.tex",
        ),
    ),
    "cite": CommandText(
        "BibTeX and licences of everything that was used",
        ("spade-bench cite runs/", "spade-bench cite runs/ --out references.bib"),
    ),
    "merge": CommandText(
        "Join results of several folders into one",
        (
            "spade-bench merge hospital-a/ hospital-b/ --out both/",
            "spade-bench merge shard-1/ shard-2/ --out runs/ --json",
        ),
    ),
    "export": CommandText(
        "Results as one file to hand on, without paths of this machine",
        (
            "spade-bench export runs/ --out results.zip",
            "spade-bench export runs/ --leaderboard numbers.json",
        ),
    ),
    "import": CommandText(
        "Check and open what `export` wrote",
        (
            "spade-bench import results.zip --out theirs/",
            "spade-bench import results.zip --out theirs/ --max-gb 50",
        ),
    ),
    "push": CommandText(
        "Pass on a model with a card, without names of patients",
        (
            "spade-bench push spade/ --to shared/spade --licence Apache-2.0",
            "spade-bench push model/ --to hf://my-lab/crc-msi --results runs/",
            "spade-bench push runs/heads/9904d2353be740c0 --to shared/head --no-hashes",
        ),
    ),
    "pull": CommandText(
        "Check and take over what `push` passed on",
        (
            "spade-bench pull shared/spade --out spade/",
            "spade-bench pull hf://my-lab/crc-msi --out model/ --json",
        ),
    ),
    "demo": CommandText(
        "The whole job on simulated data, with a report at the end",
        ("spade-bench demo", "spade-bench demo --out demo --size tiny --seed 1"),
    ),
}  # fmt: skip
