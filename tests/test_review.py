"""The operator's review of labels: access, order, and what becomes of the labels."""

import base64
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.test_api import OPERATOR, PREDICTIONS, assert_problem, post, stored_id
from tests.test_database import made
from webapp.app import create_app
from webapp.prediction import OUTLIER
from webapp.services import services
from webapp.settings import Settings
from webapp.store import PredictionStore

QUEUE = f"{PREDICTIONS}?order=review"


@pytest.fixture
def operator(app: Flask) -> FlaskClient:
    """Return a client that sends the operator's token."""
    client = app.test_client(use_cookies=False)
    client.environ_base["HTTP_AUTHORIZATION"] = OPERATOR["Authorization"]
    return client


@pytest.fixture
def url(client: FlaskClient) -> str:
    """Return the address of a visitor's prediction, a 7 that is labelled 1."""
    url = f"{PREDICTIONS}/{stored_id(client)}"
    client.patch(url, json={"true_digit": 1})
    return url


@pytest.mark.parametrize(
    ("body", "digit", "review"),
    [
        ({"true_digit": 1, "review": "accepted"}, 1, "accepted"),
        ({"review": "accepted"}, 1, "accepted"),
        ({"true_digit": 7, "review": "accepted"}, 7, "accepted"),
        ({"true_digit": None, "review": "rejected"}, None, "rejected"),
        ({"true_digit": 1, "review": "rejected"}, None, "rejected"),
        ({"review": "rejected"}, None, "rejected"),
    ],
)
def test_reviewed_label_becomes_the_operators(
    client: FlaskClient,
    operator: FlaskClient,
    url: str,
    body: Any,
    digit: int | None,
    review: str,
) -> None:
    answer = operator.patch(url, json=body).json
    assert (answer["true_digit"], answer["review"]) == (digit, review)
    assert operator.get(url).json == answer
    assert_problem(client.patch(url, json={"true_digit": 3}), 403, "The operator has set")
    assert operator.get(url).json == answer


@pytest.mark.parametrize(
    ("body", "digit"),
    [({"review": None}, 1), ({"true_digit": 3}, 3), ({"true_digit": None}, None)],
)
def test_review_is_taken_back(
    client: FlaskClient, operator: FlaskClient, url: str, body: Any, digit: int | None
) -> None:
    operator.patch(url, json={"review": "accepted"})
    answer = operator.patch(url, json=body).json
    assert (answer["true_digit"], answer["review"]) == (digit, None)
    status = client.patch(url, json={"true_digit": 5}).status_code
    assert status == (200 if digit is None else 403)


def test_same_label_keeps_its_review(operator: FlaskClient, url: str) -> None:
    operator.patch(url, json={"review": "accepted"})
    assert operator.patch(url, json={"true_digit": 1}).json["review"] == "accepted"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (422, {"review": "maybe"}),
        (422, {"review": True}),
        (422, {"review": ["accepted"]}),
        (422, {"true_digit": None, "review": "accepted"}),
        (400, {"review": "accepted", "true": 1}),
    ],
)
def test_bad_review_is_rejected(operator: FlaskClient, url: str, status: int, body: Any) -> None:
    assert_problem(operator.patch(url, json=body), status)
    assert operator.get(url).json["true_digit"] == 1


@pytest.mark.parametrize("review", ["accepted", "rejected", None])
def test_visitor_cannot_review(
    client: FlaskClient, operator: FlaskClient, url: str, review: str | None
) -> None:
    assert_problem(client.patch(url, json={"true_digit": 1, "review": review}), 401)
    assert operator.get(url).json["review"] is None


def test_only_the_operator_sees_reviews(
    client: FlaskClient, operator: FlaskClient, url: str
) -> None:
    operator.patch(url, json={"review": "accepted"})
    assert operator.get(PREDICTIONS).json["predictions"][0]["review"] == "accepted"
    answers: list[Any] = [client.get(url).json, *client.get(PREDICTIONS).json["predictions"]]
    answers += [client.patch(url, json={"true_digit": 1}).json, post(client).json]
    assert not [answer for answer in answers if "review" in answer]
    for query in ("reviewed=yes", "reviewed=no", "order=review"):
        assert_problem(client.get(f"{PREDICTIONS}?{query}"), 401)


def test_reviewed_labels_are_filtered(operator: FlaskClient, client: FlaskClient, url: str) -> None:
    other = stored_id(client)
    for review, reviewed in ((None, []), ("rejected", [url])):
        operator.patch(url, json={"review": review})
        found = operator.get(f"{PREDICTIONS}?reviewed=yes").json["predictions"]
        assert [f"{PREDICTIONS}/{row['id']}" for row in found] == reviewed
    (found,) = operator.get(f"{PREDICTIONS}?reviewed=no").json["predictions"]
    assert found["id"] == other


@pytest.fixture
def store(app: Flask) -> PredictionStore:
    """Return the application's store."""
    return services(app).store


def add(
    store: PredictionStore, confidence: float, uncertain: bool = False, label: int | None = None
) -> str:
    """Store the prediction of a 7 with a label; return its id."""
    row = made()
    store.insert(
        replace(
            row,
            predicted_digit=7,
            confidence=confidence,
            doubt="low_confidence" if uncertain else None,
            uncertain=uncertain,
        )
    )
    if label is not None:
        store.label(row.id, label, "visitor")
    return row.id


def test_disagreements_come_first_then_the_least_confident(
    operator: FlaskClient, store: PredictionStore
) -> None:
    add(store, 0.5, True, None)
    agreeing = add(store, 0.99, False, 7)
    uncertain, less = add(store, 0.5, True, 7), add(store, 0.4, True, 7)
    disagreeing, least = add(store, 0.99, False, 1), add(store, 0.3, True, 1)
    expected = [least, disagreeing, less, uncertain, agreeing]
    queue = operator.get(QUEUE).json
    assert (queue["next"], [row["id"] for row in queue["predictions"]]) == (None, expected)
    operator.patch(f"{PREDICTIONS}/{least}", json={"review": "accepted"})
    operator.patch(f"{PREDICTIONS}/{disagreeing}", json={"review": "rejected"})
    short = operator.get(f"{QUEUE}&limit=2").json["predictions"]
    assert [row["id"] for row in short] == [less, uncertain]
    assert operator.get(f"{QUEUE}&digit=3").json["predictions"] == []


def test_order_has_no_next_page(operator: FlaskClient, url: str) -> None:
    id_ = url.rpartition("/")[2]
    assert_problem(operator.get(f"{QUEUE}&before={id_}"), 400, "`order`")


# ---- command line ---------------------------------------------------------------------------


def export(app: Flask, tmp_path: Path, *options: str) -> tuple[str, dict[str, Any]]:
    """Return what the export of a data set prints, and the data set."""
    file = tmp_path / "labels.npz"
    command = ["predictions", "export", "--labelled", *options, str(file)]
    result = app.test_cli_runner().invoke(args=command)
    with np.load(file) as arrays:
        return result.output.replace(str(file), "FILE"), dict(arrays)


def test_data_set_has_the_reviewed_labels(
    app: Flask, client: FlaskClient, operator: FlaskClient, url: str, tmp_path: Path
) -> None:
    operator.patch(url, json={"review": "accepted"})
    rejected = f"{PREDICTIONS}/{stored_id(client)}"
    operator.patch(rejected, json={"review": "rejected"})
    client.patch(f"{PREDICTIONS}/{stored_id(client)}", json={"true_digit": 7})
    printed, arrays = export(app, tmp_path)
    assert printed == "1 digits and 1 outliers in FILE\n"
    assert [f"{PREDICTIONS}/{id_}" for id_ in arrays["ids"]] == [rejected, url]
    pixels = base64.b64decode(operator.get(url).json["pixels"])
    assert arrays["images"].shape == (2, 28, 28)
    assert (arrays["images"].dtype, arrays["images"][1].tobytes()) == (np.uint8, pixels)
    assert (arrays["labels"].dtype, arrays["labels"].tolist()) == (np.int64, [OUTLIER, 1])
    assert arrays["labelled_by"].tolist() == ["operator", "operator"]
    assert arrays["review"].tolist() == ["rejected", "accepted"]
    age = np.datetime64(datetime.now(UTC).replace(tzinfo=None)) - arrays["labelled_at"]
    assert (age < np.timedelta64(10, "m")).all()


def test_writers_have_stable_pseudonyms_that_need_the_key(
    app: Flask, operator: FlaskClient, settings: Settings, tmp_path: Path
) -> None:
    for visitor in (app.test_client(), app.test_client()):
        for _ in range(2):
            url = f"{PREDICTIONS}/{stored_id(visitor)}"
            operator.patch(url, json={"true_digit": 7, "review": "accepted"})
    writers = export(app, tmp_path)[1]["writer"]
    assert writers.dtype == np.int64
    assert writers[0] == writers[1] != writers[2] == writers[3]
    assert (export(app, tmp_path)[1]["writer"] == writers).all()
    other = create_app(replace(settings, secret_key="another"))
    assert not {*export(other, tmp_path)[1]["writer"]} & {*writers}


def test_unreviewed_labels_that_a_sure_model_contradicts_are_left_out(
    app: Flask, operator: FlaskClient, store: PredictionStore, tmp_path: Path
) -> None:
    add(store, 0.99, label=1)
    kept = [add(store, 0.6, label=1), add(store, 0.99, label=7), add(store, 0.99, label=1)]
    operator.patch(f"{PREDICTIONS}/{kept[2]}", json={"review": "accepted"})
    kept.append(add(store, 0.99, label=7))
    operator.patch(f"{PREDICTIONS}/{kept[3]}", json={"true_digit": 1})
    printed, arrays = export(app, tmp_path, "--unreviewed")
    assert sorted(arrays["ids"]) == sorted(kept)
    assert "4 digits and 0 outliers" in printed
    assert "1 labels left out" in printed


def test_labels_that_agree_are_accepted_in_a_batch(
    app: Flask, operator: FlaskClient, store: PredictionStore
) -> None:
    agreeing, disagreeing = add(store, 0.9, label=7), add(store, 0.9, label=1)
    command = ["predictions", "review", "--accept-agreeing"]
    for printed in ("1 accepted\n", "0 accepted\n"):
        assert app.test_cli_runner().invoke(args=command).output == printed
    assert store.get(agreeing).review == "accepted"
    assert store.get(agreeing).labelled_by == "operator"
    assert store.get(disagreeing).review is None
