"""A small thesaurus: words that often say the same in technical prose. No I/O.

A related word counts for less than the word itself (`terms.RELATED`), so it can add a passage but
not displace one that uses the question's own words.
"""

from __future__ import annotations

from orchestrator_svc.agents.corpus.words import stem

_GROUPS = """
    clean cleanup close release dispose shutdown finally teardown finalize
    error exception raise fail failure
    delete remove erase discard
    folder directory
    begin start launch
    stop terminate abort end
    read load parse
    write save dump store
    create make build construct
    clear reset flush empty
    copy duplicate clone
    convert transform translate
    concurrent parallel simultaneous
    limit maximum bound
    fast speed performance efficient
    slow delay latency
    safe protect guard
    send transmit
    receive recv accept
    wait block
    change modify update
    find search locate
    split divide partition
    join combine merge concatenate
    check verify validate
    run execute
    keep store storage preserve
    harm damage injure hurt
    grow cultivate
"""

_RELATED: dict[str, tuple[str, ...]] = {}
for _line in _GROUPS.split("\n"):
    _stems = [stem(word) for word in _line.split()]
    for _one in _stems:
        _others = (*_RELATED.get(_one, ()), *(other for other in _stems if other != _one))
        _RELATED[_one] = tuple(dict.fromkeys(_others))


def related(stem_of_word: str) -> tuple[str, ...]:
    """Return the stems of the words that often say the same as the word of this stem."""
    return _RELATED.get(stem_of_word, ())
