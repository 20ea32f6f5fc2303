"""What a console shows of the libraries underneath: nothing, until something is really wrong."""

import os
import subprocess
import sys

LIBRARIES = """
import warnings
import tensorflow as tf
import tensorflow_addons
import la_tf.networks
import faiss
import tensorflow_datasets
import sklearn.metrics
network = la_tf.networks.build_network("resnet18", 32, 8)
value = tf.function(network)(tf.zeros([2, 32, 32, 3]))
assert value.shape == (2, 8)
"""


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs code after `quiet()`, in a fresh process without this one's settings for quietness."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("TF_CPP_MIN_LOG_LEVEL", "TFDS_DISABLE_PROGRESS_BAR", "PYTHONWARNINGS")
    }
    return subprocess.run(
        [sys.executable, "-c", "from la_tf.quiet import quiet\nquiet()\n" + code],
        env=inherited | environment,
        capture_output=True,
        text=True,
    )


def test_imports_and_an_operation_print_nothing():
    process = python(LIBRARIES)
    assert process.returncode == 0, process.stderr
    assert process.stdout == "" and process.stderr == ""


def test_an_exception_of_tensorflow_still_prints_and_nothing_before_it():
    process = python("import tensorflow as tf\ntf.reshape(tf.ones([3]), [2])")
    assert process.returncode == 1 and process.stdout == ""
    assert process.stderr.startswith("Traceback (most recent call last):")
    last = process.stderr.strip().splitlines()[-1]
    assert "InvalidArgumentError" in last and "3 values" in last and "2" in last


def test_warnings_of_a_user_s_own_code_still_print():
    process = python(
        "import logging, warnings\n"
        "warnings.warn('look at this')\n"
        "warnings.warn('and this', FutureWarning)\n"
        "logging.getLogger('mine').warning('and that')\n"
        "logging.getLogger('tensorflow').error('and an error')"
    )
    for words in ("UserWarning: look at this", "FutureWarning: and this", "and that", "an error"):
        assert words in process.stderr


def test_a_log_level_that_is_set_already_is_respected():
    code = "import os\nprint(os.environ['TF_CPP_MIN_LOG_LEVEL'])"
    assert python(code).stdout == "3\n"
    assert python(code, TF_CPP_MIN_LOG_LEVEL="0").stdout == "0\n"
