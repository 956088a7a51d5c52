"""The embedded style corpus."""

from nanochat.data.style import style_documents, style_phrases


def test_every_phrase_occurs_in_the_style_corpus():
    documents = style_documents()
    assert (len(documents), len(style_phrases())) == (12, 13)
    assert [p for p in style_phrases() if not any(p in d for d in documents)] == []


def test_lines_are_clean_and_unique():
    for lines in (style_documents(), style_phrases()):
        assert lines == [line.strip() for line in lines if line.strip()]
        assert len(set(lines)) == len(lines)
