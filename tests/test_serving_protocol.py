"""TensorFlow Serving's REST form as its documentation shows it, and what is no such form."""

import base64
import json
import tracemalloc

import numpy as np
import pytest

from la_tf.serving.protocol import RequestError, parse_predict, predictions

A, B = {"b64": base64.b64encode(b"first").decode()}, {"b64": base64.b64encode(b"\x00\xff").decode()}


def parse(request):
    return parse_predict(json.dumps(request).encode(), max_instances=3)


@pytest.mark.parametrize(
    "request_, columnar",
    [
        ({"instances": [A, B]}, False),
        ({"instances": [{"image_bytes": A}, {"image_bytes": B}]}, False),
        ({"signature_name": "serving_default", "instances": [A, {"image_bytes": B}]}, False),
        ({"inputs": [A, B]}, True),
        ({"inputs": {"image_bytes": [A, B]}}, True),
    ],
)
def test_rows_and_columns(request_, columnar):
    call = parse(request_)
    assert (call.pictures, call.columnar) == ([b"first", b"\x00\xff"], columnar)


def test_answers_have_the_form_of_the_request():
    rows = np.array([[0.5, -0.25], [0.0, 1.0]], np.float32)
    assert predictions(rows, columnar=False) == {"predictions": [[0.5, -0.25], [0.0, 1.0]]}
    assert predictions(rows, columnar=True) == {"outputs": [[0.5, -0.25], [0.0, 1.0]]}


def test_answers_of_a_classifier_name_the_classes():
    """As TensorFlow Serving answers for a model with two named outputs."""
    rows, names = np.array([[0.75, 0.25], [0.0, 1.0]], np.float32), ("cat", "dog")
    both = [["cat", "dog"]] * 2
    assert predictions(rows, columnar=False, class_names=names) == {
        "predictions": [
            {"classes": ["cat", "dog"], "scores": [0.75, 0.25]},
            {"classes": ["cat", "dog"], "scores": [0.0, 1.0]},
        ]
    }
    assert predictions(rows, columnar=True, class_names=names) == {
        "outputs": {"classes": both, "scores": [[0.75, 0.25], [0.0, 1.0]]}
    }


def test_the_signature_that_is_served_may_be_named_and_no_other():
    for request in ({"instances": [A]}, {"signature_name": "classify", "instances": [A]}):
        assert parse_predict(json.dumps(request).encode(), 3, "classify").pictures == [b"first"]
    with pytest.raises(RequestError, match=r"'serving_default': the only .* served is classify"):
        other = {"signature_name": "serving_default", "instances": [A]}
        parse_predict(json.dumps(other).encode(), 3, "classify")


@pytest.mark.parametrize(
    "request_, words",
    [
        ([A], "no object"),
        ({}, "one of instances and inputs"),
        ({"instances": [A], "inputs": [A]}, "one of instances and inputs"),
        ({"instances": A}, "instances is no list"),
        ({"inputs": A}, "inputs is no list"),
        ({"inputs": {"image_bytes": A}}, "inputs is no list"),
        ({"inputs": {"image": [A]}}, "inputs is no list"),
        ({"instances": []}, "instances is an empty list"),
        ({"inputs": {"image_bytes": []}}, "inputs is an empty list"),
        ({"instances": [A] * 4}, "4 pictures, 3 are allowed"),
        ({"instances": [A, "text"]}, r"instances\[1\] is 'text'"),
        ({"instances": [A, None]}, r"instances\[1\] is None"),
        ({"inputs": [A, [A]]}, r"inputs\[1\] is \[\{"),
        ({"instances": [{"image": A}]}, r"instances\[0\] is \{'image'"),
        ({"instances": [{"b64": "YQ==", "more": 1}]}, r"instances\[0\] is \{'b64'"),
        ({"instances": [{"b64": 7}]}, r"instances\[0\] is \{'b64': 7\}"),
        ({"instances": [A, {"b64": "a*b="}]}, r"instances\[1\] is not base64"),
        ({"instances": [{"b64": "abc"}]}, r"instances\[0\] is not base64"),
        ({"instances": [{"b64": "é"}]}, r"instances\[0\] is not base64"),
        ({"signature_name": "images", "instances": [A]}, "'images': the only .* serving_default"),
        ({"signature_name": None, "instances": [A]}, "None: the only signature"),
    ],
)
def test_what_is_refused_and_why(request_, words):
    with pytest.raises(RequestError, match=words) as caught:
        parse(request_)
    assert caught.value.status == 400
    assert len(str(caught.value)) < 300 and str(caught.value).endswith(".")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xd8\xff\xe0 a JPEG itself", b"nothing"],
    ids=["empty", "cut", "binary", "word"],
)
def test_a_body_that_is_not_json(body):
    with pytest.raises(RequestError, match="the body is not JSON") as caught:
        parse_predict(body, max_instances=3)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "body, words",
    [
        (b"9" * 10_000, r"not JSON \(a number is too long\)"),
        (b"[" * 100_000, r"not JSON \(it is nested too deeply\)"),
    ],
)
def test_json_that_python_does_not_read_is_refused_in_plain_words(body, words):
    with pytest.raises(RequestError, match=words):
        parse_predict(body, max_instances=100_000)


@pytest.mark.parametrize(
    "body",
    [b"[[" + b"[]," * 10_000_000 + b"[]]]", b"[" + b"0," * 15_000_000 + b"0]", b"{" * 9_999_999],
    ids=["lists", "numbers", "objects"],
)
def test_many_values_are_refused_before_they_are_parsed(body):
    tracemalloc.start()
    try:
        with pytest.raises(RequestError, match="more values than 256 pictures"):
            parse_predict(body, max_instances=256)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100_000  # a list of that many values alone has 80 MB


def test_as_many_pictures_as_are_allowed_in_their_longest_form():
    request = {"signature_name": "serving_default", "instances": [{"image_bytes": A}] * 256}
    assert len(parse_predict(json.dumps(request).encode(), 256).pictures) == 256


@pytest.mark.parametrize("depth", range(100, 1000, 100))
def test_values_of_any_depth_are_quoted(depth):
    body = b'{"instances": [' + b"[" * depth + b"]" * depth + b"]}"
    with pytest.raises(RequestError, match=r"instances\[0\] is \[\[|not JSON"):
        parse_predict(body, max_instances=1000)
