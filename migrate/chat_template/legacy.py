"""The cut after `.Response` that Ollama makes in a template without Messages before it renders the last turn.

Source: template/template.go (Execute, deleteNode).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from migrate.errors import Refused
from migrate.gotemplate import nodes as go


def cut_after_response(root: go.Block) -> go.Block:
    """The tree that Ollama runs for the last turn: everything after the first `.Response` field is gone.

    The cut is made in document order whether or not that part is executed; conditions are not looked at. Raises
    Refused where Ollama's own cut fails: `.Response` inside a branch that has an `else`.
    """
    return _Cut().block(root)


@dataclass(slots=True)
class _Cut:
    done: bool = False

    def block(self, block: go.Block) -> go.Block:
        kept = [cut for node in block.nodes if (cut := self._statement(node)) is not None]
        return replace(block, nodes=tuple(kept))

    def _statement(self, node: go.Statement) -> go.Statement | None:
        if self.done:
            return None
        match node:
            case go.If() | go.With() | go.Range():
                body = self.block(node.body)
                if node.otherwise is None:
                    return replace(node, body=body)
                if self.done:
                    raise Refused(
                        f"TEMPLATE line {node.line}: `.Response` inside a branch that has an `else`: "
                        "Ollama fails on every chat with this template"
                    )
                return replace(node, body=body, otherwise=self.block(node.otherwise))
            case go.Action():
                pipe = self._pipe(node.pipe)
                return None if pipe is None else replace(node, pipe=pipe)
        return node

    def _pipe(self, pipe: go.Pipe) -> go.Pipe | None:
        commands = []
        for command in pipe.commands:
            arguments = tuple(kept for argument in command.args if (kept := self._argument(argument)) is not None)
            if not arguments:
                return None
            commands.append(replace(command, args=arguments))
        return replace(pipe, commands=tuple(commands)) if commands else None

    def _argument(self, node: go.Operand) -> go.Operand | None:
        if isinstance(node, go.Field) and "Response" in node.idents:
            self.done = True
        elif self.done:
            return None
        return self._pipe(node) if isinstance(node, go.Pipe) else node
