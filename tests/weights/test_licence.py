import pytest

from longtake.pipeline.weights.licence import LICENCES, forbids_commercial_use, licence_of, read_licence, terms_of


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: cc-by-nc-4.0\n---\n# A model", "cc-by-nc-4.0"),
        ("---\nlicense: other\nlicense_name: their-own\n---\n", "their-own"),
        ("---\ntags: [film]\n---\nlicense: mit", None),
        ("license: mit", None),
        ("---\n- mit\n---\n", None),
        ("---\n: [\n---\n", None),
    ],
)
def test_a_card_names_the_licence_in_its_front_matter(tmp_path, card, licence):
    assert read_licence(tmp_path) is None
    (tmp_path / "README.md").write_text(card)
    assert read_licence(tmp_path) == licence


@pytest.mark.parametrize("name", ["cc-by-nc-sa-4.0", "CC BY-NC 4.0", "nc", "acme-noncommercial-1", "Non-Commercial"])
def test_a_licence_that_forbids_commercial_use_is_recognised_by_its_name(name):
    assert forbids_commercial_use(name)
    assert "forbids commercial use" in terms_of(name)


@pytest.mark.parametrize("name", ["apache-2.0", "mit", "openrail++", "tencent-hunyuan-community", "ncsa-like", None])
def test_other_licences_need_no_notice(name):
    assert terms_of(name) is None


def test_a_known_repository_takes_precedence_over_a_card_in_every_revision(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    assert licence_of("tianweiy/CausVid@main", tmp_path) == LICENCES["tianweiy/CausVid"]
    assert licence_of("nobody/films", tmp_path) == "mit"
    assert licence_of("nobody/films") is None
    assert "limits commercial use" in terms_of(licence_of("Lightricks/LTX-2"))
