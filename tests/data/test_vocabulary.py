"""A known tokenizer on a new text: the ids of old characters stay, new ones follow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.data.tokenizer import ByteTokenizer, CharTokenizer, tokenizer_from_dict
from nanochat.data.vocabulary import covering
from nanochat.errors import TokenizerError

characters = st.characters(exclude_categories=["Cs"])
texts = st.lists(st.text(characters, max_size=12), max_size=4)


@given(known=texts, text=texts, other=texts)
def test_an_extended_tokenizer_encodes_old_text_alike_and_decodes_new_text(known, text, other):
    old = CharTokenizer("".join(known))
    new = covering(old, [text, other], extend=True)
    assert new.characters[: len(old.characters)] == old.characters
    added = new.characters[len(old.characters) :]
    assert list(added) == sorted(set("".join([*text, *other])) - set(old.characters))
    for document in known:
        assert new.encode(document).tolist() == old.encode(document).tolist()
    for document in [*text, *other]:
        assert new.decode(new.encode(document)) == document
    assert tokenizer_from_dict(new.to_dict()).encode("".join(text)).tolist() == (
        new.encode("".join(text)).tolist()
    )
    sizes = [len(c.encode("utf-8")) for c in new.characters]
    assert new.token_bytes.tolist() == [0, *sizes]


@given(known=texts, text=texts)
def test_without_extend_only_known_characters_pass(known, text):
    old = CharTokenizer("".join(known))
    unknown = set("".join(text)) - set("".join(known))
    if not unknown:
        assert covering(old, [text], extend=False) is old
        return
    with pytest.raises(TokenizerError) as caught:
        covering(old, [text], extend=False)
    count = "a character" if len(unknown) == 1 else f"{len(unknown)} characters"
    message = str(caught.value)
    assert message.startswith(f"the text has {count} that the model does not know: ")
    assert message.isprintable()


def test_a_tokenizer_of_bytes_knows_every_text():
    tokenizer = ByteTokenizer()
    assert covering(tokenizer, [["é", "数"]], extend=True) is tokenizer
