"""Tokens to the tree of `nodes`, by the rules of Go's text/template/parse/parse.go.

The errors are Go's: the same templates fail, on the same line. Two limits are our own, against hostile input: blocks,
`else if` chains and parentheses nest `MAX_NESTING` deep at most (Go has 10,000 for parentheses, none for blocks), and
comments leave no node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NoReturn

from migrate.errors import TemplateError
from migrate.gotemplate import literals, nodes
from migrate.gotemplate.lexer import Kind, Token, quoted, tokens

MAX_NESTING = 100

_COMPARISONS = ("eq", "ge", "gt", "le", "lt", "ne")
_COLLECTIONS = ("call", "index", "len", "slice")
_TEXTS = ("html", "js", "print", "printf", "println", "urlquery")
BUILTIN_FUNCTIONS = frozenset(("and", "not", "or", *_COLLECTIONS, *_COMPARISONS, *_TEXTS))
"""The names that Go's templates know by themselves."""

_OPERANDS = frozenset(
    {
        Kind.BOOL,
        Kind.CHAR_CONSTANT,
        Kind.COMPLEX,
        Kind.DOT,
        Kind.FIELD,
        Kind.IDENTIFIER,
        Kind.NUMBER,
        Kind.NIL,
        Kind.RAW_STRING,
        Kind.STRING,
        Kind.VARIABLE,
        Kind.LEFT_PAREN,
    }
)
_UNICODE_SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_LITERALS = (nodes.Bool, nodes.String, nodes.Number, nodes.Nil, nodes.Dot)


def parse(text: str, *, functions: Collection[str] = (), name: str = "") -> nodes.Template:
    """Parses a template.

    `functions` are the names known besides Go's builtins; a call of any other is an error, as in Go. `name` is what
    the template is called: `{{ template "name" }}` inside it calls itself. Raises TemplateError with the line where
    Go reports one too; also when blocks or parentheses nest more than `MAX_NESTING` deep.
    """
    try:
        return _Parser(text, BUILTIN_FUNCTIONS | set(functions), name).parse()
    except RecursionError:
        raise TemplateError("nested too deeply") from None


@dataclass(frozen=True, slots=True)
class _End:
    """`{{ end }}`, or with `is_else` an `{{ else }}`; `token` is where it stands."""

    token: Token
    is_else: bool = False

    def __str__(self) -> str:
        return "{{else}}" if self.is_else else "{{end}}"


class _Scope:
    """The variables visible while parsing one template, innermost last."""

    def __init__(self) -> None:
        self._names = ["$"]
        self._count = Counter(self._names)

    def __contains__(self, name: str) -> bool:
        return self._count[name] > 0

    def declare(self, name: str) -> None:
        self._names.append(name)
        self._count[name] += 1

    def mark(self) -> int:
        return len(self._names)

    def drop_to(self, mark: int) -> None:
        while len(self._names) > mark:
            self._count[self._names.pop()] -= 1


class _Parser:
    def __init__(self, text: str, functions: Collection[str], name: str) -> None:
        self.functions = functions
        self.name = name
        self.defines: dict[str, nodes.Block] = {}
        self._tokens = tokens(text)
        self._pushed: list[Token] = []
        self._newest = Token(Kind.EOF, 0, "", 1)
        self._action_line = 0
        self._scope = _Scope()
        self._range_depth = 0
        self._depth = 0

    # ---- tokens ---------------------------------------------------------------------------------------------------

    def _next(self) -> Token:
        if self._pushed:
            return self._pushed.pop()
        self._newest = next(self._tokens, self._newest)
        return self._newest

    def _peek(self) -> Token:
        token = self._next()
        self._pushed.append(token)
        return token

    def _next_non_space(self) -> Token:
        token = self._next()
        while token.kind is Kind.SPACE:
            token = self._next()
        return token

    def _peek_non_space(self) -> Token:
        token = self._next_non_space()
        self._pushed.append(token)
        return token

    def _expect(self, kinds: Collection[Kind], context: str) -> Token:
        token = self._next_non_space()
        if token.kind not in kinds:
            self._unexpected(token, context)
        return token

    # ---- errors ---------------------------------------------------------------------------------------------------

    def _error(self, message: str) -> NoReturn:
        line = self._newest.line
        raise TemplateError(f"line {line}: {message}", line=line)

    def _unexpected(self, token: Token, context: str) -> NoReturn:
        if token.kind is not Kind.ERROR:
            self._error(f"unexpected {token} in {context}")
        elsewhere = self._action_line and self._action_line != token.line
        self._error(f"{token}, in the action that starts on line {self._action_line}" if elsewhere else str(token))

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > MAX_NESTING:
            self._error(f"nested more than {MAX_NESTING} deep")

    # ---- templates ------------------------------------------------------------------------------------------------

    def parse(self) -> nodes.Template:
        statements: list[nodes.Statement] = []
        first = self._peek()
        while self._peek().kind is not Kind.EOF:
            token = self._next_non_space()
            if token.kind is Kind.LEFT_DELIM and self._peek_non_space().kind is Kind.DEFINE:
                self._next_non_space()
                self._define()
                continue
            self._pushed.append(token)
            statement = self._text_or_action()
            if isinstance(statement, _End):
                self._error(f"unexpected {statement}")
            statements.append(statement)
        root = nodes.Block(tuple(statements), pos=first.pos, line=first.line)
        self._add(self.name, root)
        root = self.defines.pop(self.name)
        return nodes.Template(root, self.defines, name=self.name)

    def _define(self) -> None:
        token = self._expect((Kind.STRING, Kind.RAW_STRING), "define clause")
        name = self._unquote(token)
        self._expect((Kind.RIGHT_DELIM,), "define clause")
        self._add(name, self._separate_body("define clause"))

    def _separate_body(self, context: str) -> nodes.Block:
        """A body that sees none of the variables and loops around it, up to its `{{ end }}`."""
        outer = self._scope, self._range_depth
        self._scope, self._range_depth = _Scope(), 0
        body, end = self._item_list()
        if end.is_else:
            self._error(f"unexpected {end} in {context}")
        self._scope, self._range_depth = outer
        return body

    def _add(self, name: str, body: nodes.Block) -> None:
        """An empty body (space and comments only) never replaces another; two others may not share a name."""
        known = self.defines.get(name)
        if known is None or _is_empty(known):
            self.defines[name] = body
        elif not _is_empty(body):
            self._error(f"multiple definition of template {quoted(name)}")

    # ---- statements -----------------------------------------------------------------------------------------------

    def _item_list(self) -> tuple[nodes.Block, _End]:
        self._enter()
        statements: list[nodes.Statement] = []
        first = self._peek_non_space()
        while self._peek_non_space().kind is not Kind.EOF:
            statement = self._text_or_action()
            if isinstance(statement, _End):
                self._depth -= 1
                return nodes.Block(tuple(statements), pos=first.pos, line=first.line), statement
            statements.append(statement)
        self._error("unexpected EOF")

    def _text_or_action(self) -> nodes.Statement | _End:
        token = self._next_non_space()
        if token.kind is Kind.TEXT:
            return nodes.Text(token.text, pos=token.pos, line=token.line)
        if token.kind is not Kind.LEFT_DELIM:
            self._unexpected(token, "input")
        self._action_line = token.line
        statement = self._action()
        self._action_line = 0
        return statement

    def _action(self) -> nodes.Statement | _End:
        token = self._next_non_space()
        control = _CONTROLS.get(token.kind)
        if control is not None:
            return control(self, token)
        self._pushed.append(token)
        return nodes.Action(self._pipeline("command", Kind.RIGHT_DELIM), pos=token.pos, line=token.line)

    def _if(self, token: Token) -> nodes.If:
        return nodes.If(*self._control("if", Kind.IF), pos=token.pos, line=token.line)

    def _with(self, token: Token) -> nodes.With:
        return nodes.With(*self._control("with", Kind.WITH), pos=token.pos, line=token.line)

    def _range(self, token: Token) -> nodes.Range:
        return nodes.Range(*self._control("range", None), pos=token.pos, line=token.line)

    def _control(self, context: str, chained: Kind | None) -> tuple[nodes.Pipe, nodes.Block, nodes.Block | None]:
        """Pipeline, body and `else` of an if, with or range; `chained` is the keyword allowed right after `else`."""
        mark = self._scope.mark()
        pipe = self._pipeline(context, Kind.RIGHT_DELIM)
        self._range_depth += context == "range"
        body, end = self._item_list()
        self._range_depth -= context == "range"
        otherwise = self._otherwise(end, chained) if end.is_else else None
        self._scope.drop_to(mark)
        return pipe, body, otherwise

    def _otherwise(self, end: _End, chained: Kind | None) -> nodes.Block:
        """`{{ else if x }}` is `{{ else }}{{ if x }}` with one `{{ end }}` for both."""
        token = self._peek()
        if chained is not None and token.kind is chained:
            self._next()
            self._enter()
            inner = self._if(token) if chained is Kind.IF else self._with(token)
            self._depth -= 1
            return nodes.Block((inner,), pos=end.token.pos, line=end.token.line)
        body, last = self._item_list()
        if last.is_else:
            self._error(f"expected end; found {last}")
        return body

    def _end(self, token: Token) -> _End:
        self._expect((Kind.RIGHT_DELIM,), "end")
        return _End(token)

    def _else(self, token: Token) -> _End:
        if self._peek_non_space().kind not in (Kind.IF, Kind.WITH):
            self._expect((Kind.RIGHT_DELIM,), "else")
        return _End(token, is_else=True)

    def _break(self, token: Token) -> nodes.Break:
        self._loop_control("{{break}}")
        return nodes.Break(pos=token.pos, line=token.line)

    def _continue(self, token: Token) -> nodes.Continue:
        self._loop_control("{{continue}}")
        return nodes.Continue(pos=token.pos, line=token.line)

    def _loop_control(self, what: str) -> None:
        self._expect((Kind.RIGHT_DELIM,), what)
        if not self._range_depth:
            self._error(f"{what} outside {{{{range}}}}")

    def _block(self, token: Token) -> nodes.TemplateCall:
        """`{{ block "name" pipe }}body{{ end }}` defines a template and calls it on the spot."""
        name = self._unquote(self._expect((Kind.STRING, Kind.RAW_STRING), "block clause"))
        pipe = self._pipeline("block clause", Kind.RIGHT_DELIM)
        self._add(name, self._separate_body("block clause"))
        return nodes.TemplateCall(name, pipe, pos=token.pos, line=token.line)

    def _template(self, token: Token) -> nodes.TemplateCall:
        name = self._unquote(self._expect((Kind.STRING, Kind.RAW_STRING), "template clause"))
        pipe = None
        if self._peek_non_space().kind is Kind.RIGHT_DELIM:
            self._next()
        else:
            pipe = self._pipeline("template clause", Kind.RIGHT_DELIM)
        return nodes.TemplateCall(name, pipe, pos=token.pos, line=token.line)

    # ---- pipelines ------------------------------------------------------------------------------------------------

    def _pipeline(self, context: str, end: Kind) -> nodes.Pipe:
        first = self._peek_non_space()
        decl, is_assign = self._declarations(context)
        commands: list[nodes.Command] = []
        while (token := self._next_non_space()).kind is not end:
            if token.kind not in _OPERANDS:
                self._unexpected(token, context)
            self._pushed.append(token)
            commands.append(self._command())
        if not commands:
            self._error(f"missing value for {context}")
        for stage, command in enumerate(commands[1:], 2):
            if isinstance(command.args[0], _LITERALS):
                self._error(f"non executable command in pipeline stage {stage}")
        return nodes.Pipe(tuple(commands), tuple(decl), is_assign, pos=first.pos, line=first.line)

    def _declarations(self, context: str) -> tuple[list[nodes.Variable], bool]:
        """`$x :=`, `$x =` or, in a range, `$i, $x :=`; nothing when the pipeline starts with another thing."""
        decl: list[nodes.Variable] = []
        while (variable := self._peek_non_space()).kind is Kind.VARIABLE:
            self._next()
            after = self._peek()
            following = self._peek_non_space()
            if following.kind in (Kind.ASSIGN, Kind.DECLARE):
                self._next_non_space()
                decl.append(self._declare(variable))
                return decl, following.kind is Kind.ASSIGN
            if following.kind is not Kind.CHAR or following.text != ",":
                if after.kind is Kind.SPACE:
                    self._pushed.append(after)
                self._pushed.append(variable)
                break
            self._next_non_space()
            decl.append(self._declare(variable))
            if context != "range" or len(decl) > 1:
                self._error(f"too many declarations in {context}")
            if self._peek_non_space().kind not in (Kind.VARIABLE, Kind.RIGHT_DELIM, Kind.RIGHT_PAREN):
                self._error("range can only initialize variables")
        return decl, False

    def _declare(self, token: Token) -> nodes.Variable:
        self._scope.declare(token.text)
        return nodes.Variable((token.text,), pos=token.pos, line=token.line)

    def _command(self) -> nodes.Command:
        first = self._peek_non_space()
        args: list[nodes.Operand] = []
        while True:
            self._peek_non_space()
            operand = self._operand()
            if operand is not None:
                args.append(operand)
            token = self._next()
            if token.kind is Kind.SPACE:
                continue
            if token.kind in (Kind.RIGHT_DELIM, Kind.RIGHT_PAREN):
                self._pushed.append(token)
            elif token.kind is not Kind.PIPE:
                self._unexpected(token, "operand")
            break
        if not args:
            self._error("empty command")
        return nodes.Command(tuple(args), pos=first.pos, line=first.line)

    def _operand(self) -> nodes.Operand | None:
        """A term and the fields behind it: `.A.B`, `$x.A`, `(pipe).A`."""
        term = self._term()
        if term is None or self._peek().kind is not Kind.FIELD:
            return term
        first = self._peek()
        fields: list[str] = []
        while self._peek().kind is Kind.FIELD:
            fields.append(self._next().text[1:])
        if isinstance(term, nodes.Field):
            return nodes.Field((*term.idents, *fields), pos=term.pos, line=term.line)
        if isinstance(term, nodes.Variable):
            return nodes.Variable((*term.idents, *fields), pos=term.pos, line=term.line)
        if isinstance(term, _LITERALS):
            self._error("unexpected . after a constant or .")
        return nodes.Chain(term, tuple(fields), pos=first.pos, line=first.line)

    def _term(self) -> nodes.Operand | None:
        token = self._next_non_space()
        pos, line = token.pos, token.line
        match token.kind:
            case Kind.IDENTIFIER:
                if token.text not in self.functions:
                    self._error(f"function {quoted(token.text)} not defined")
                return nodes.Identifier(token.text, pos=pos, line=line)
            case Kind.DOT:
                return nodes.Dot(pos=pos, line=line)
            case Kind.NIL:
                return nodes.Nil(pos=pos, line=line)
            case Kind.VARIABLE:
                if token.text not in self._scope:
                    self._error(f"undefined variable {quoted(token.text)}")
                return nodes.Variable((token.text,), pos=pos, line=line)
            case Kind.FIELD:
                return nodes.Field((token.text[1:],), pos=pos, line=line)
            case Kind.BOOL:
                return nodes.Bool(token.text == "true", pos=pos, line=line)
            case Kind.CHAR_CONSTANT | Kind.COMPLEX | Kind.NUMBER:
                return self._number(token)
            case Kind.STRING | Kind.RAW_STRING:
                return nodes.String(self._unquote(token), token.text, pos=pos, line=line)
            case Kind.LEFT_PAREN:
                self._enter()
                pipe = self._pipeline("parenthesized pipeline", Kind.RIGHT_PAREN)
                self._depth -= 1
                return pipe
        self._pushed.append(token)
        return None

    def _number(self, token: Token) -> nodes.Number:
        try:
            return literals.number(token.text, pos=token.pos, line=token.line)
        except ValueError as error:
            self._error(str(error))

    def _unquote(self, token: Token) -> str:
        try:
            return literals.unquote(token.text)
        except ValueError as error:
            self._error(f"{error}: {quoted(token.text[:60])}")


_CONTROLS: dict[Kind, Callable[[_Parser, Token], nodes.Statement | _End]] = {
    Kind.BLOCK: _Parser._block,
    Kind.BREAK: _Parser._break,
    Kind.CONTINUE: _Parser._continue,
    Kind.ELSE: _Parser._else,
    Kind.END: _Parser._end,
    Kind.IF: _Parser._if,
    Kind.RANGE: _Parser._range,
    Kind.TEMPLATE: _Parser._template,
    Kind.WITH: _Parser._with,
}


def _is_empty(block: nodes.Block) -> bool:
    return all(isinstance(node, nodes.Text) and not node.text.strip(_UNICODE_SPACES) for node in block.nodes)
