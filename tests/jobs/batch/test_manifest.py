import json

import pytest

from longtake.jobs.batch.identity import _weights, fingerprint
from longtake.jobs.batch.manifest import read_manifest
from longtake.pipeline.errors import SpecError
from longtake.pipeline.journal.store import Store
from tests.jobs.batch.sessions import STORYBOARD


@pytest.fixture
def folder(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(STORYBOARD)
    return tmp_path


def read(folder, text, suffix="yaml"):
    path = folder / f"manifest.{suffix}"
    path.write_text(text)
    return read_manifest(str(path), str(folder / "out"))


def mistakes(folder, text, suffix="yaml"):
    with pytest.raises(SpecError) as caught:
        read(folder, text, suffix)
    return [line.removeprefix(f"{folder}/manifest.{suffix}, ") for line in str(caught.value).splitlines()]


def test_the_same_manifest_in_yaml_jsonl_and_csv(folder):
    written = [
        {"storyboard": "one.yaml", "priority": 2, "project": "acme", "tags": ["draft", "client=acme"], "ranks": 2},
        {"storyboard": "one.yaml", "id": "again", "overrides": ["seed=7", "sampling.steps=4"], "output": "films/b"},
        {"storyboard": "two.yaml", "output": str(folder / "elsewhere")},
    ]
    in_csv = (
        "storyboard,id,priority,project,tags,ranks,overrides,output\n"
        "one.yaml,,2,acme,draft; client=acme,2,,\n"
        "one.yaml,again,,,,,seed=7; sampling.steps=4,films/b\n"
        f'two.yaml,,,,,,,"{folder}/elsewhere"\n'
    )
    in_yaml = read(folder, json.dumps({"takes": written}))
    assert read(folder, "\n".join(map(json.dumps, written)), "jsonl") == in_yaml
    assert read(folder, in_csv, "csv") == in_yaml
    assert read(folder, json.dumps(written)) == in_yaml, "a bare list is a manifest too"
    first, second, third = in_yaml
    assert (first.id, first.priority, first.project, first.ranks) == ("one", 2, "acme", 2)
    assert first.tags == ("draft", "client=acme")
    assert first.output == str(folder / "out" / "one")
    assert (second.id, second.storyboard.seed, second.storyboard.sampling.steps) == ("again", 7, 4)
    assert second.output == str(folder / "out" / "films" / "b")
    assert (third.id, third.output, third.film_s) == ("two", str(folder / "elsewhere"), 2.0)


def test_a_storyboard_may_be_part_of_the_manifest_and_shared_by_anchors(folder):
    text = """
    takes:
      - &first {id: a, storyboard: {model: tiny, scenes: [{prompt: a red circle, duration: 1.5s}]}, project: acme}
      - {<<: *first, id: b, overrides: {seed: 3, sampling: {steps: 2}, "scenes[0].prompt": "a: b"}}
    """
    first, second = read(folder, text)
    assert (first.id, first.film_s, first.project) == ("a", 1.5, "acme")
    assert (second.storyboard.seed, second.storyboard.sampling.steps, second.project) == (3, 2, "acme")
    assert second.storyboard.scenes[0].prompt == "a: b"


def test_manifests_and_storyboards_may_be_on_any_file_system():
    store = Store("memory://shows")
    store.put("film.yaml", STORYBOARD.encode())
    store.put("m.jsonl", b'{"storyboard": "film.yaml"}\n\n{"storyboard": "memory://shows/film.yaml", "id": "x"}\n')
    takes = read_manifest("memory://shows/m.jsonl", "memory://shows/out")
    assert [(take.id, take.output) for take in takes] == [
        ("film", "memory://shows/out/film"),
        ("x", "memory://shows/out/x"),
    ]


def test_every_mistake_is_named_at_once_with_line_key_value_and_fix(folder):
    found = mistakes(
        folder,
        """takes:
- {storyboard: one.yaml, priorty: 3}
- {storyboard: one.yaml, id: up/../there, priority: high, ranks: 0, tags: 7, overrides: [seed]}
- {id: lost}
- {id: gone, storyboard: nowhere.yaml, output: ../escape}
- {id: wrong, storyboard: two.yaml, overrides: [sampling.stepz=3, seed=-1]}
- 7
- {storyboard: {scenes: []}}
- {storyboard: two.yaml, id: two, id: three}
""",
    )
    second, fourth, fifth = "line 3, take 2 (up/../there)", "line 5, take 4 (gone)", "line 6, take 5 (wrong)"
    names = "use 1 to 100 letters, digits, '.', '_' or '-', a letter or digit first"
    tags = "use a list such as [draft, night], or a mapping such as {client: acme}"
    overrides = "use a mapping such as {sampling.steps: 4}, or a list such as [sampling.steps=4]"
    escape = "'../escape' is no name inside an output root; use plain parts joined by '/', such as 'live/video.m3u8'"
    assert found == [
        "line 2, take 1: priorty (3) is not a known key; did you mean priority?",
        f"{second}: id is 'up/../there'; {names}",
        f"{second}: priority is 'high'; use a whole number from -1000000 to 1000000",
        f"{second}: tags is 7; {tags}",
        f"{second}: overrides is ['seed']; {overrides}",
        f"{second}: ranks is 0; use a whole number from 1 to 1024",
        "line 4, take 3 (lost): storyboard is missing; add it",
        f"{fourth}: output is '../escape'; {escape}",
        f"{fourth}: storyboard is 'nowhere.yaml'; {folder}/nowhere.yaml does not exist; write it, or name another file",
        f"{fifth}: two.yaml: seed is -1; use a whole number from 0 to 9223372036854775807",
        f"{fifth}: two.yaml: sampling.stepz (3) is not a known key; did you mean steps?",
        "line 7, take 6: it is 7; write keys, such as `storyboard: film.yaml`",
        "line 8, take 7: id is missing; add one, since a storyboard without a file has no name",
        "line 8, take 7: storyboard: scenes is []; a film needs at least one scene, with a prompt and a duration",
        "line 9, take 8 (three): id is given twice, in line 9; keep one",
    ]


def test_one_output_by_several_names_belongs_to_one_take(folder):
    (folder / "out").mkdir()
    (folder / "link").symlink_to(folder / "out")
    names = ("./one", "one//", "x/../one", f"file://{folder}/out//one", f"{folder}/link/one")
    for name in names:
        rows = [{"id": "a", "storyboard": "one.yaml", "output": "one"}]
        rows.append({"id": "b", "storyboard": "one.yaml", "output": name})
        (folder / "films.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(SpecError, match="give one of them another output"):
            read_manifest(str(folder / "films.jsonl"), str(folder / "out"))


def test_ids_and_outputs_belong_to_one_take_each(folder):
    found = mistakes(
        folder,
        "[{storyboard: one.yaml}, {storyboard: one.yaml}, {storyboard: two.yaml, id: ONE},"
        " {storyboard: two.yaml, id: other, output: one}]",
    )
    assert found == [
        "line 1, take 2: id is 'one', as in line 1, take 1; give one of them another id",
        "line 1, take 3 (ONE): id is 'ONE', as in line 1, take 1; give one of them another id",
        f"line 1, take 4 (other): output is '{folder}/out/one', as in line 1, take 1; give one of them another output",
    ]


@pytest.mark.parametrize(
    ("suffix", "text", "message"),
    [
        ("txt", "", "has an unknown file name extension; use .yaml, .yml, .jsonl, .csv"),
        ("yaml", "takes: {}", "is not a list of takes"),
        ("yaml", "takes: []", "holds no takes"),
        ("yaml", "a: [", "is not valid YAML: line"),
        ("jsonl", '{"storyboard": \n', "line 1, take 1: it is not valid JSON"),
        ("jsonl", '{"id": "a", "id": "b"}', "line 1, take 1: id is given twice; keep one"),
        ("csv", "", "holds no takes"),
        ("csv", "storyboard,id,id\n", "names a column twice"),
        ("csv", "storyboard,id\none.yaml,a,b\n", "it has cells after the last column: ['b']"),
        ("csv", 'storyboard,id\none.yaml,"a\n', "is not valid CSV"),
        ("csv", "storyboard,ranks\none.yaml,many\n", "line 2, take 1: ranks is 'many'; use a whole number"),
        ("yaml", "[{storyboard: one.yaml, id: batch}]", "batch/ holds the ledger"),
        ("yaml", "[{storyboard: one.yaml, output: batch/x}]", "batch/ holds the ledger"),
        ("yaml", "[{storyboard: one.yaml, output: 'nope://x'}]", "output is 'nope://x'"),
        ("yaml", "[{storyboard: 'my film.yaml'}]", "id would be 'my film', after the storyboard"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused_in_one_line(folder, suffix, text, message):
    assert message in "\n".join(mistakes(folder, text, suffix))


def test_a_csv_take_is_named_by_the_line_that_it_begins_in(folder):
    text = 'storyboard,tags,ranks\none.yaml,"a;\nb",x\ntwo.yaml,,y\n'
    assert [line.split(":")[0] for line in mistakes(folder, text, "csv")] == ["line 2, take 1", "line 4, take 2"]


def test_thousands_of_mistakes_are_counted_not_shown(folder):
    found = mistakes(folder, "storyboard,ranks\n" + "one.yaml,0\n" * 5000, "csv")
    assert len(found) == 101
    assert found[-1] == "and 4900 more"


def test_a_fingerprint_depends_on_storyboard_output_and_weights_but_not_on_their_spelling(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(b"one")

    def print_of(**changes):
        entry = {"id": "a", "storyboard": "one.yaml", "overrides": [f"model={weights}"], **changes}
        (take,) = read(folder, json.dumps([entry]))
        return fingerprint(take)

    before = print_of()
    (folder / "one.yaml").write_text("# a remark\n" + STORYBOARD.replace("{", "{ "))
    assert print_of(priority=3, project="b", tags=["c"], ranks=4) == before
    assert print_of(overrides=[f"model={weights}", "seed=1"]) != before
    assert print_of(output="elsewhere") != before
    _weights.cache_clear()
    weights.write_bytes(b"other")
    assert print_of() != before
