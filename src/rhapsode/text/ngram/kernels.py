"""The loops of the n-gram tokenizer, compiled by numba. They hold no lock, so that threads run side by side.

All of them walk one automaton (Aho & Corasick 1975): a state is the longest end of the text read so far that begins
a token. `table[state << shift | class of byte]` is the next state, so that a byte costs one look-up however long the
tokens are. `outs[first[state]:first[state + 1]]` are the tokens of at least two bytes that end here, shortest first,
each packed as `cost << 32 | id << 5 | length`.

Compiled code is cached beside this file. `plain` is the same in Python.
"""

from typing import no_type_check

import numpy as np
from numba import njit

from rhapsode.text.tokenizer import FIRST_BYTE

# five bits hold a length, and as many slots hold the costs that a token can reach back to.
MAX_LENGTH = 31
SLOTS = np.uint64(31)
SEPARATOR = FIRST_BYTE + 0xFF


@no_type_check
@njit(cache=True, nogil=True)
def count_states(data, offsets, shared):
    """Fill `shared` with the bytes that each sorted token has in common with the one before; return the states."""
    states = 1
    for token in range(len(offsets) - 1):
        begin, length = offsets[token], offsets[token + 1] - offsets[token]
        same = 0
        if token:
            before = offsets[token - 1]
            limit = min(length, begin - before)
            while same < limit and data[begin + same] == data[before + same]:
                same += 1
        shared[token] = same
        states += length - same
    return states


@no_type_check
@njit(cache=True, nogil=True)
def fill_states(data, offsets, shared, codes, classes, table, shift, depths, first, outs):
    """Fill the automaton level by level, so that the states most text is in lie together.

    A state's row begins as the row of its longest proper end that is a state (`fail`), which is nearer the root and
    complete; its own children are then written over it. With an empty `outs` only `first` is filled: call it twice.
    """
    num_tokens = len(offsets) - 1
    fail = np.zeros(len(depths), dtype=np.int64)
    owner = np.full(len(depths), -1, dtype=np.int64)
    nodes = np.zeros(num_tokens, dtype=np.int64)
    table[:] = 0
    size, level_begin, depth = 1, 1, 0
    while True:
        depth += 1
        node = 0
        for token in range(num_tokens):
            if offsets[token + 1] - offsets[token] < depth:
                continue
            if shared[token] < depth:
                slot = (nodes[token] << shift) | classes[data[offsets[token] + depth - 1]]
                node = size
                fail[node] = table[slot]
                table[slot] = node
                depths[node] = depth
                size += 1
            nodes[token] = node
            if offsets[token + 1] - offsets[token] == depth:
                owner[node] = token
        if size == level_begin:
            break
        for node in range(level_begin, size):
            for column in range(1 << shift):
                table[(node << shift) | column] = table[(fail[node] << shift) | column]
        level_begin = size
    first[0] = first[1] = 0
    for node in range(1, size):
        place = first[node]
        for out in range(first[fail[node]], first[fail[node] + 1]):
            if len(outs):
                outs[place] = outs[out]
            place += 1
        if owner[node] >= 0:
            if len(outs):
                outs[place] = codes[owner[node]]
            place += 1
        first[node + 1] = place


@no_type_check
@njit(cache=True, nogil=True)
def encode_shortest(data, classes, table, shift, first, outs, byte_costs, ids):
    """Write the cheapest tokens of `data` to the end of `ids`, which has one more place, and return where they begin.

    Of equally cheap ways the one whose last token is longest wins, from the end backwards.
    """
    num_bytes = len(data)
    costs = np.zeros(32, dtype=np.int64)
    one = np.uint64(1)
    state = np.uint64(0)
    for i in range(num_bytes):
        here = np.uint64(i)
        byte = data[i]
        state = np.uint64(table[(state << shift) | np.uint64(classes[byte])])
        best = costs[here & SLOTS] + byte_costs[byte]
        choice = ((np.int64(byte) + FIRST_BYTE) << 5) | 1
        place, stop = np.uint64(first[state]), np.uint64(first[state + one])
        while place < stop:
            out = outs[place]
            cost = costs[(here + one - np.uint64(out & 31)) & SLOTS] + (out >> 32)
            if cost <= best:
                best, choice = cost, out & 0xFFFFFFFF
            place += one
        costs[(here + one) & SLOTS] = best
        ids[here + one] = choice
    # the way back reads no place that it has written: a token has at least one byte.
    end, begin = num_bytes, num_bytes
    while end > 0:
        choice = np.int64(ids[end])
        ids[begin] = choice >> 5
        begin -= 1
        end -= choice & 31
    return begin + 1


@no_type_check
@njit(cache=True, nogil=True)
def encode_greedy(data, classes, table, shift, first, outs, depths, ids):
    """Write the tokens of `data`, the longest first from the left, to the beginning of `ids`; return how many."""
    written = begin = 0
    while begin < len(data):
        state, end = 0, begin
        choice = ((np.int64(data[begin]) + FIRST_BYTE) << 5) | 1
        while end < len(data):
            child = np.int64(table[(state << shift) | np.int64(classes[data[end]])])
            if depths[child] != depths[state] + 1:
                break
            state = child
            end += 1
            if first[state + 1] > first[state]:
                out = outs[first[state + 1] - 1]
                if (out & 31) == end - begin:
                    choice = out & 0xFFFFFFFF
        ids[written] = choice >> 5
        written += 1
        begin += choice & 31
    return written


@no_type_check
@njit(cache=True, nogil=True)
def count_without(data, offsets, classes, table, shift, first, outs, fewest):
    """Fill `fewest` with the tokens that the bytes of each token take if it is not there itself."""
    counts = np.zeros(32, dtype=np.int64)
    for token in range(len(offsets) - 1):
        begin, length = offsets[token], offsets[token + 1] - offsets[token]
        state = 0
        for i in range(1, length + 1):
            state = np.int64(table[(state << shift) | np.int64(classes[data[begin + i - 1]])])
            best = counts[i - 1] + 1
            for place in range(first[state], first[state + 1]):
                size = outs[place] & 31
                if size < length:
                    best = min(best, counts[i - size] + 1)
            counts[i] = best
        fewest[token] = counts[length]


@no_type_check
@njit(cache=True, nogil=True)
def count_tokens(ids, num_bytes, chunk_bytes, gains, times, scores):
    """Count ids; the n-th time in one chunk adds `gains[n]` to the score."""
    last = np.full(len(times), -1, dtype=np.int64)
    here = np.zeros(len(times), dtype=np.int64)
    position = 0
    for token in ids:
        chunk = position // chunk_bytes
        if last[token] != chunk:
            last[token], here[token] = chunk, 0
        here[token] += 1
        times[token] += 1
        scores[token] += gains[min(here[token], len(gains) - 1)]
        position += num_bytes[token]


@no_type_check
@njit(cache=True, nogil=True)
def count_pairs(ids, num_bytes, max_bytes, chunk_bytes, gains, keys, times, scores):
    """Count neighbours that are together no longer than `max_bytes`, in a hash table of a power of two of places.

    Pairs with the byte 0xFF, which separates stretches of text, are left out. A key is `first << 32 | second`, or -1
    where a place is free. There must be more places than ids.
    """
    mask = np.uint64(len(keys) - 1)
    last = np.full(len(keys), -1, dtype=np.int32)
    here = np.zeros(len(keys), dtype=np.int32)
    position = 0
    for i in range(len(ids) - 1):
        chunk = position // chunk_bytes
        position += num_bytes[ids[i]]
        if num_bytes[ids[i]] + num_bytes[ids[i + 1]] > max_bytes or ids[i] == SEPARATOR or ids[i + 1] == SEPARATOR:
            continue
        key = (np.int64(ids[i]) << 32) | np.int64(ids[i + 1])
        mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
        place = (mixed ^ (mixed >> np.uint64(29))) & mask
        while keys[place] >= 0 and keys[place] != key:
            place = (place + np.uint64(1)) & mask
        keys[place] = key
        if last[place] != chunk:
            last[place], here[place] = chunk, 0
        here[place] += 1
        times[place] += 1
        scores[place] += gains[min(here[place], len(gains) - 1)]
