"""The pages that links in mails lead to: what they may do, and what their script says to whom."""

import base64
import hashlib
import json
import shutil
import subprocess
from html.parser import HTMLParser
from typing import Any

import pytest

from vlinders.auth.v1.links_pb2 import ResetPasswordResponse
from vlinders_gateway.account_pages import PAGES, Page
from vlinders_gateway.testing import Running

pytestmark = pytest.mark.anyio

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.operation)

_BROWSER = """
const { told, answers } = JSON.parse(process.argv[1]);
const asked = [];
let submit;
const form = {
  hidden: false, dataset: told.dataset,
  addEventListener: (name, run) => { submit = run; },
};
const output = { textContent: "" }, button = { disabled: false };
globalThis.document = {
  querySelector: (name) => ({ form, output, button })[name],
};
globalThis.location = { hash: told.hash, pathname: "/account/page" };
globalThis.history = { replaceState: (...given) => { location.hash = ""; asked.push(given[2]); } };
globalThis.FormData = class { *[Symbol.iterator]() { yield* Object.entries(told.fields); } };
globalThis.fetch = async (at, given) => {
  asked.push([at, given.method, given.credentials, given.headers, JSON.parse(given.body)]);
  const answer = answers.shift();
  if (answer === undefined) throw new TypeError("Failed to fetch");
  return { ok: answer.ok, json: async () => answer.body };
};
const shown = () => [form.hidden, button.disabled, output.textContent];
(0, eval)(told.script);
(async () => {
  const seen = [shown()];
  for (let i = 0; i < told.times; i++) {
    await submit({ preventDefault() {} });
    seen.push(shown());
  }
  console.log(JSON.stringify({ asked, seen, hash: location.hash }));
})();
"""
"""As much of a browser as the script uses."""


class Read(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in = tag

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        self.texts[self._in] = self.texts.get(self._in, "") + data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


async def read(running: Running, page: Page) -> tuple[Any, Read]:
    answer = await running.http.get(page.path)
    assert answer.status_code == 200
    return answer, Read(answer.text)


def run(page: Read, *, times: int = 1, answers: Any = (), hash: str = "#token=t0ken") -> Any:
    """What the script asks and shows when the form is sent `times` times."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("the script is not run: there is no node")
    [form] = page.all("form")
    told = {
        "script": page.texts["script"],
        "dataset": {"at": form["data-at"], "done": form["data-done"]},
        "fields": {row["name"]: f"a {row['name']}" for row in page.all("input")},
        "hash": hash,
        "times": times,
    }
    given = json.dumps({"told": told, "answers": answers})
    command = [node, "-e", _BROWSER, given]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60, text=True)
    return json.loads(done.stdout)


@each_page
async def test_nothing_runs_and_nothing_is_loaded_but_what_is_written_in_it(
    running: Running, page: Page
) -> None:
    answer, html = await read(running, page)

    policy = dict(
        rule.strip().split(" ", 1) for rule in answer.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    for kind in ("script", "style"):
        digest = hashlib.sha256(html.texts[kind].encode()).digest()
        assert policy[f"{kind}-src"] == f"'sha256-{base64.b64encode(digest).decode()}'"
        assert len(html.all(kind)) == 1
    for tag, attributes in html.tags:
        assert not attributes.keys() & {"src", "href", "style"}, tag
        assert not [name for name in attributes if name.startswith("on")], tag
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"
    assert "set-cookie" not in answer.headers


@each_page
async def test_it_asks_for_what_the_operation_needs_within_its_limits(
    running: Running, page: Page
) -> None:
    _, html = await read(running, page)

    wanted = {"VerifyEmail": [], "ResetPassword": ["new_password"]}
    inputs = html.all("input")
    assert [row["name"] for row in inputs] == wanted.get(page.operation, ["full_name", "password"])
    for row in inputs:
        secret = str(row["name"]).endswith("password")
        assert (row.get("type") == "password") == secret
        assert (row["minlength"], row["maxlength"]) == (("8", "128") if secret else ("1", "100"))


@each_page
async def test_its_script_says_the_token_to_the_api_alone_and_then_what_came_of_it(
    running: Running, page: Page
) -> None:
    _, html = await read(running, page)
    [form] = html.all("form")

    done = run(html, answers=[{"ok": True, "body": {"data": {}}}])

    fields = {row["name"]: f"a {row['name']}" for row in html.all("input")}
    headers = {"Content-Type": "application/json"}
    said = {**fields, "token": "t0ken"}
    assert done["asked"] == ["/account/page", [form["data-at"], "POST", "omit", headers, said]]
    assert done["seen"] == [[False, False, ""], [True, True, page.done]]
    assert done["hash"] == ""


async def test_what_is_wrong_is_shown_and_can_be_tried_again(running: Running) -> None:
    _, html = await read(running, PAGES[1])
    refusal = {"error": {"code": "invalid_request", "message": "The link is not valid."}}
    faults = {"error": {"message": "Invalid", "details": [{"message": "one"}, {"message": "two"}]}}

    done = run(
        html, times=3, answers=[{"ok": False, "body": refusal}, {"ok": False, "body": faults}]
    )

    assert done["seen"][1:] == [
        [False, False, "The link is not valid."],
        [False, False, "one two"],
        [False, False, "There was no answer. Please try again."],
    ]


@pytest.mark.parametrize("hash", ["", "#", "#token=", "#other=1"])
async def test_without_a_token_there_is_nothing_to_send(running: Running, hash: str) -> None:
    _, html = await read(running, PAGES[0])

    done = run(html, times=0, hash=hash)

    [[hidden, _, text]] = done["seen"]
    assert hidden
    assert text.startswith("The link is not whole.")


async def test_where_it_sends_to_is_served(running: Running) -> None:
    _, html = await read(running, PAGES[1])
    running.script.answers["ResetPassword"] = ResetPasswordResponse()
    [form] = html.all("form")

    body = {"new_password": "correct horse", "token": "t"}
    answer = await running.http.post(str(form["data-at"]), json=body)

    assert answer.status_code == 200
    assert [asked.token for asked in running.script.requests("ResetPassword")] == ["t"]
