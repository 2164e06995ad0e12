"""From episodes to preferences: pairs of turns for DPO, whole episodes with success or failure for KTO.

A pair is one turn against another behind the same history, for DPO's loss covers everything behind the prompt: of a
pair of whole episodes it would train what the environment wrote.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from agentforge.data.chat_template import stop_token_ids
from agentforge.environments.splits import split_of
from agentforge.errors import CheckRefused
from agentforge.rollouts.episode_tokens import EpisodeTokens, tokenise_conversation
from agentforge.rollouts.episodes import Episode

PAIRS_OF_A_TASK = 16
# Why a success and a failure of a task give no pair.
ALIKE = "pairs whose turns are all the same"
ANSWERED_OTHERWISE = "pairs whose turns are the same until the environment answers otherwise"
REPEATED = "pairs that are there already"


def tokens_of(episode: Episode, tokenizer: PreTrainedTokenizerBase) -> EpisodeTokens | None:
    """Return the tokens as they were sampled, or, if this tokenizer reads them otherwise, those of the conversation.

    None where the conversation has not as many assistant turns as the episode has turns.
    """
    spans = [(turn.start, turn.end) for turn in episode.turns]
    stops = set(stop_token_ids(tokenizer))
    if episode.prompt_ids and all(
        _text(tokenizer, episode.token_ids[turn.start : turn.end], stops) == turn.text for turn in episode.turns
    ):
        return EpisodeTokens(episode.prompt_ids, episode.token_ids, episode.mask, spans)
    read = tokenise_conversation(tokenizer, episode.messages, episode.tools)
    return read if read is not None and len(read.spans) == len(spans) else None


def _text(tokenizer: PreTrainedTokenizerBase, ids: list[int], stops: set[int]) -> str:
    said = ids[:-1] if ids and ids[-1] in stops else ids
    return str(tokenizer.decode(said, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def refuse_reserved(episodes: Iterable[Episode], ids: Mapping[str, str]) -> Iterator[Episode]:
    """Yield the episodes.

    Args:
        episodes: as they were collected.
        ids: of the environments whose name is not their id.

    Raises:
        CheckRefused: one was played on a task that is reserved for evaluation.
    """
    for episode in episodes:
        if split_of(ids.get(episode.environment, episode.environment), episode.task_id) == "eval":
            raise CheckRefused(
                f"an episode of {episode.environment} was played on task {episode.task_id}, which is reserved for "
                "evaluation; train on what `agentforge collect` has played"
            )
        yield episode


def turn_pairs(
    episodes: Iterable[Episode], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Return `prompt_ids`, `chosen_ids` and `rejected_ids` of pairs, and what was left out and why.

    For each task a success and a failure are compared up to the first turn in which they differ: what was said before
    is the prompt, the success's turn is chosen and the failure's rejected. The turn that failed later may have been a
    good one; DPO evens that out over pairs, as it does with people's opinions.

    Args:
        episodes: of any policies; those of a task belong together whoever played them.
        tokenizer: of the model that is trained.
        max_length: tokens of prompt and turn; longer pairs are left out.
    """
    tasks: dict[tuple[Any, ...], dict[bool, list[tuple[Episode, EpisodeTokens]]]] = defaultdict(
        lambda: {True: [], False: []}
    )
    dropped: Counter[str] = Counter()
    for episode in episodes:
        if (tokens := tokens_of(episode, tokenizer)) is None or not episode.turns:
            dropped["without turns"] += 1
            continue
        tasks[episode.environment, episode.task_id, *tokens.prompt_ids][episode.success].append((episode, tokens))
    rows = []
    for outcomes in tasks.values():
        if not all(outcomes.values()):
            dropped["all successes" if outcomes[True] else "all failures"] += len(outcomes[True] + outcomes[False])
        pairs: dict[tuple[tuple[int, ...], ...], dict[str, Any]] = {}
        for won in outcomes[True]:
            for lost in outcomes[False]:
                if isinstance(pair := _first_difference(won, lost), str):
                    dropped[pair] += 1
                    continue
                key = tuple(tuple(ids) for ids in pair.values())
                dropped[REPEATED] += key in pairs
                pairs[key] = pair
        kept = list(pairs.values())[:PAIRS_OF_A_TASK]
        dropped["more pairs than a task may have"] += len(pairs) - len(kept)
        short = [pair for pair in kept if _length(pair) <= max_length]
        dropped["too long"] += len(kept) - len(short)
        rows += short
    return rows, +dropped


def _length(pair: Mapping[str, Sequence[int]]) -> int:
    return len(pair["prompt_ids"]) + max(len(pair["chosen_ids"]), len(pair["rejected_ids"]))


def _first_difference(won: tuple[Episode, EpisodeTokens], lost: tuple[Episode, EpisodeTokens]) -> dict[str, Any] | str:
    """Return the pair of two episodes of a task, or why there is none."""
    for (a, b), (c, d) in zip(won[1].spans, lost[1].spans, strict=False):
        before, other = won[1].token_ids[:a], lost[1].token_ids[:c]
        if before != other:  # the environment answered the same turns otherwise
            return ANSWERED_OTHERWISE
        chosen, rejected = won[1].token_ids[a:b], lost[1].token_ids[c:d]
        if chosen != rejected:
            return {"prompt_ids": won[1].prompt_ids + before, "chosen_ids": chosen, "rejected_ids": rejected}
    return ALIKE


def labelled_episodes(
    episodes: Iterable[Episode], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Return `prompt_ids`, `completion_ids`, `completion_masks` and `label` (success), and what was left out and why.

    Args:
        episodes: of any policies.
        tokenizer: of the model that is trained.
        max_length: tokens; longer episodes are left out.
    """
    rows, dropped = [], Counter[str]()
    for episode in episodes:
        if not episode.turns or (tokens := tokens_of(episode, tokenizer)) is None:
            dropped["without turns"] += 1
        elif len(tokens.prompt_ids) + len(tokens.token_ids) > max_length:
            dropped["too long"] += 1
        else:
            row = {"prompt_ids": tokens.prompt_ids, "completion_ids": tokens.token_ids}
            rows.append(row | {"completion_masks": tokens.mask, "label": episode.success})
    return rows, dropped
