"""Ollama's penalties in vLLM: over the last repeat_last_n tokens, the prompt's included.

vLLM's own repetition_penalty looks at the whole prompt and answer, its presence_penalty and frequency_penalty at the
answer alone. llama.cpp, the engine inside Ollama, keeps one window of the last n tokens, filled from the prompt on
(tools/server/server-context.cpp, init_sampler), and before anything else is done to the logits changes those of the
tokens in it (src/llama-sampler.cpp, llama_sampler_penalties_apply): a logit above 0 is divided by repeat_penalty, any
other multiplied by it; then presence_penalty and, for each time the token stands in the window, frequency_penalty are
taken off.

    vllm serve ... --logits-processors ollama_penalties:OllamaPenalties      (with PYTHONPATH=. in this directory)

A request asks for it under Ollama's names; one without these fields is left alone:

    "vllm_xargs": {"repeat_penalty": 1.1, "repeat_last_n": 64, "presence_penalty": 0, "frequency_penalty": 0}

    repeat_penalty      above 0; 1 is off, and what is assumed
    repeat_last_n       window in tokens; -1: the whole context, 0: penalties off; 64 where it is not said
    presence_penalty    any number; 0 is off, and what is assumed
    frequency_penalty   any number; 0 is off, and what is assumed

vLLM has two model runners with an interface each, and chooses between them at its start; this class is of both. In the
older one a request has a row and its tokens are on the host; in the newer one (0.32 on a GPU) it has a slot, its row is
another every step, and the tokens are on the device, where they stay. Both are exact under asynchronous scheduling.
Tokens that stand for an image count in the window; llama.cpp leaves them out.
"""

import numpy as np
import torch

try:
    from vllm.v1.sample.logits_processor import LogitsProcessor, MoveDirectionality
except ImportError:  # a vLLM that has only the newer runner
    LogitsProcessor = MoveDirectionality = None
try:
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as SlotLogitsProcessor
except ImportError:  # 0.24: its newer runner takes no processors, so that vLLM chooses the older one
    SlotLogitsProcessor = None

INTERFACES = tuple(interface for interface in (LogitsProcessor, SlotLogitsProcessor) if interface is not None)
if not INTERFACES:
    raise ImportError("this vLLM has neither of the two interfaces for logits processors that this file knows")

DEFAULTS = {"repeat_penalty": 1.0, "repeat_last_n": 64, "presence_penalty": 0.0, "frequency_penalty": 0.0}
WHOLE = 2**31 - 1
"""A window that nothing leaves."""
LARGEST = float(np.finfo(np.float32).max)


class OllamaPenalties(*INTERFACES):
    """`place`: (device, pin_memory) from the older runner, (request states,) from the newer."""

    def __init__(self, vllm_config, *place):
        self._rows = _Slots(*place) if len(place) == 1 else _Batch(*place)

    @classmethod
    def validate_params(cls, sampling_params):
        """Raises ValueError, which vLLM answers with 400."""
        penalties(sampling_params)

    def is_argmax_invariant(self):
        return False

    def update_state(self, batch_update):
        """Of the older runner: before each step, what came, went and moved."""
        if batch_update is not None:
            self._rows.update(batch_update)

    def add_request(self, req_idx, sampling_params):
        """Of the newer runner: whether the request that takes the slot is penalised."""
        return self._rows.add(req_idx, sampling_params)

    def apply_staged_writes(self):
        """Of the newer runner: before each step, once its requests are added."""
        self._rows.flush()

    def apply(self, logits, ctx=None):
        return self._rows.apply(logits) if ctx is None else self._rows.apply(logits, ctx)


def penalties(sampling_params):
    """(repeat, window, presence, frequency) of a request; None where nothing is penalised.

    Raises:
        ValueError: a value is no number, or out of range.
    """
    given = sampling_params.extra_args or {}
    if not any(name in given for name in DEFAULTS):
        return None
    repeat, window, presence, frequency = (number(name, given.get(name, default)) for name, default in DEFAULTS.items())
    if window < -1 or window != int(window):
        raise ValueError(f"vllm_xargs.repeat_last_n must be a whole number of tokens, or -1 for all, got {window}")
    repeat, presence, frequency = (float(np.float32(value)) for value in (repeat, presence, frequency))
    if repeat <= 0:
        raise ValueError(f"vllm_xargs.repeat_penalty must be above 0, got {given['repeat_penalty']}")
    if window == 0 or (repeat, presence, frequency) == (1.0, 0.0, 0.0):
        return None
    return repeat, WHOLE if window == -1 else min(int(window), WHOLE), presence, frequency


def number(name, value):
    """`value`, if it is a number that fits into 32 bits, as llama.cpp keeps it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -LARGEST <= value <= LARGEST:
        raise ValueError(f"vllm_xargs.{name} must be a number, got {value!r}")
    return value


def penalise(logits, rows, tokens, valid, repeat, presence, frequency):
    """Changes `logits` in place, for each token in a window once.

    rows: [n] or None for all of them in order. tokens, valid: [n, width], the windows, in any order, and which entries
    count. repeat, presence, frequency: [n, 1] in float32; presence and frequency are None where all of them are 0.
    """
    vocabulary = logits.shape[-1]
    valid = valid & (tokens < vocabulary)  # a token that stands for an image may lie outside
    # what does not count becomes token 0; where the window does not hold it, it is written back as it was
    chosen = torch.where(valid, tokens, 0)
    index = (torch.arange(len(tokens), device=logits.device) if rows is None else rows).unsqueeze(1)
    old = logits[index, chosen]
    new = torch.where(old > 0, old / repeat, old * repeat)
    if presence is None:
        present = valid | (valid & (tokens == 0)).any(1, keepdim=True)
    else:
        ordered = torch.where(valid, tokens, vocabulary).sort(1).values
        counts = torch.searchsorted(ordered, chosen, right=True) - torch.searchsorted(ordered, chosen)
        present = counts > 0
        new = new - (counts * frequency + presence)
    # a token that stands several times in a window is written several times, with the same value
    logits[index, chosen] = torch.where(present, new, old)


class _Batch:
    """The older runner: row -> window, where vLLM tells what moves."""

    def __init__(self, device, pin_memory):
        self._device = torch.device(device)
        self._windows = {}

    def update(self, change):
        windows = self._windows
        for row in change.removed:
            windows.pop(row, None)
        for row, params, prompt, output in change.added:
            windows.pop(row, None)
            if (found := penalties(params)) is not None:
                windows[row] = _Window(found, prompt, output)
        for a, b, direction in change.moved:
            first, second = windows.pop(a, None), windows.pop(b, None)
            if first is not None:
                windows[b] = first
            if second is not None and direction == MoveDirectionality.SWAP:
                windows[a] = second

    def apply(self, logits):
        if not self._windows:
            return logits
        groups = {}
        for row, window in self._windows.items():
            if (ids := window.ids()).size:
                groups.setdefault(size_class(ids.size), []).append((row, window, ids))
        for group in groups.values():
            width = max(ids.size for _, _, ids in group)
            tokens = np.full((len(group), width), -1, dtype=np.int64)
            for line, (_, _, ids) in zip(tokens, group, strict=True):
                line[: ids.size] = ids
            tokens = to_device(tokens, self._device)
            rows = to_device(np.array([row for row, _, _ in group]), self._device)
            values = np.array([window.values for _, window, _ in group], dtype=np.float32)
            repeat, presence, frequency = columns(to_device(values, self._device), counted=values[:, 1:].any())
            penalise(logits, rows, tokens, tokens >= 0, repeat, presence, frequency)
        return logits


class _Window:
    """The last tokens of a request, kept up to date from the list that vLLM appends to."""

    def __init__(self, found, prompt, output):
        self.values = (found[0], found[2], found[3])
        self._size, self._prompt, self._output = found[1], prompt or [], output
        self._start()

    def _start(self):
        known = self._known()
        tail = self._output[max(0, known - self._size) : known]
        if (missing := min(self._size - len(tail), len(self._prompt))) > 0:
            tail = [*self._prompt[len(self._prompt) - missing :], *tail]
        self._seen, self._total = known, len(tail)
        self._ring = np.empty(min(self._size, max(64, 2 * len(tail))), dtype=np.int64)
        self._ring[: len(tail)] = tail

    def _known(self):
        """How much of the answer is there: what is not sampled yet stands as -1 at its end."""
        known = len(self._output)
        while known and self._output[known - 1] < 0:
            known -= 1
        return known

    def ids(self):
        """The window's tokens, in any order."""
        known = self._known()
        if known < self._seen:  # after a failed transfer of the cache vLLM takes tokens back
            self._start()
        for token in self._output[self._seen : known]:
            self._add(token)
        return self._ring[: min(self._total, self._size)]

    def _add(self, token):
        if self._total == len(self._ring) < self._size:
            longer = np.empty(min(self._size, 2 * self._total), dtype=np.int64)
            longer[: self._total] = self._ring
            self._ring = longer
        self._ring[self._total % self._size] = token
        self._total += 1
        self._seen += 1


class _Slots:
    """The newer runner: a request keeps its slot, its tokens are read from vLLM's own table on the device."""

    def __init__(self, states):
        self._states = states
        self._device = torch.device(states.device)
        self._windows = np.zeros(states.max_num_reqs, dtype=np.int64)
        """0: not penalised."""
        self._values = np.zeros((states.max_num_reqs, 3), dtype=np.float32)
        self._values[:, 0] = 1
        self._changed = True
        self.flush()

    def add(self, slot, params):
        found = penalties(params)
        window, values = (0, (1, 0, 0)) if found is None else (found[1], (found[0], found[2], found[3]))
        if self._windows[slot] != window or (self._values[slot] != values).any():
            self._windows[slot], self._values[slot] = window, values
            self._changed = True
        return found is not None

    def flush(self):
        if self._changed:
            # new tensors: a step still under way reads the old ones
            self._windows_there = to_device(self._windows.copy(), self._device)
            self._values_there = to_device(self._values.copy(), self._device)
            self._changed = False

    def apply(self, logits, ctx):
        slots = ctx.idx_mapping_np
        windows = self._windows[slots]
        if not windows.any():
            return logits
        sizes = np.minimum(windows, ctx.seq_lens_upper_bound_np[: len(slots)])
        counted = self._values[slots, 1:].any()
        if logits.shape[0] != len(slots):  # drafts: which rows are whose is known only on the device
            self._penalise(logits, ctx, None, int(sizes.max()), counted)
            return logits
        classes = np.array([size_class(size) if size else -1 for size in sizes.tolist()])
        for found in sorted(set(classes.tolist()) - {-1}):
            group = np.flatnonzero(classes == found)
            self._penalise(logits, ctx, to_device(group, self._device), int(sizes[group].max()), counted)
        return logits

    def _penalise(self, logits, ctx, rows, width, counted):
        taken = torch.arange(logits.shape[0], device=self._device) if rows is None else rows
        slots = ctx.expanded_idx_mapping[taken].long()
        at = ctx.pos[taken].long().unsqueeze(1)
        back = torch.arange(width, device=self._device)
        places = at - back
        committed = self._states.all_token_ids.gpu[slots.unsqueeze(1), places.clamp(min=0)].long()
        # what a draft model proposed before a row's place is not in the table, but in the rows above
        drafts = ctx.input_ids[(taken.unsqueeze(1) - back).clamp(min=0)].long()
        tokens = torch.where(back < ctx.expanded_local_pos[taken].unsqueeze(1), drafts, committed)
        valid = (places >= 0) & (back < self._windows_there[slots].unsqueeze(1)) & (tokens >= 0)
        repeat, presence, frequency = columns(self._values_there[slots], counted=counted)
        penalise(logits, rows, tokens, valid, repeat, presence, frequency)


def columns(values, *, counted):
    """[n, 1] each of repeat, presence, frequency; the last two None where nothing is `counted`."""
    repeat, presence, frequency = values.split(1, dim=1)
    return (repeat, presence, frequency) if counted else (repeat, None, None)


def size_class(size):
    """Windows of one class go together, padded to the longest: at most twice the work. All up to 64 are one class."""
    return max(6, (size - 1).bit_length())


def to_device(array, device):
    """A copy that nothing waits for."""
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
