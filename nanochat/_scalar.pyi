"""Types of the compiled scalar core. A test compares the docstrings with csrc/bindings."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, ClassVar, Literal, SupportsFloat, TypeVar, final, overload

import numpy as np
from numpy.typing import NDArray

_T = TypeVar("_T")
_Number = SupportsFloat

@final
class Value:
    """A scalar with its gradient: one node of a computation.

    The operators + - * / accept Values and numbers on both sides; ** accepts a number as
    exponent. A result keeps its operands alive, for backward(). Results are bit-identical to
    microgpt.py: float64, a - b is a + (-b) and a / b is a * b**-1. Unlike Python's math module,
    exp(), log(), ** and division by a Value follow IEEE 754 and return inf or nan where math
    raises. x**0 is 1 with gradient 0 for every x.

    Two Values are equal if they are the same node. Values cannot be pickled, copied or
    subclassed.

    Args:
        data: any number; float(data) is stored.

    Raises:
        TypeError: `data` or an operand is not a number, or an exponent is a Value.
        OverflowError: an int is beyond the range of a float.
        ValueError: the operands are on different tapes.
        ZeroDivisionError: division by the number 0.

    Example:
        >>> from nanochat import Value
        >>> a, b = Value(2.0), Value(-3.0)
        >>> loss = (a * b + 10).tanh() / 2
        >>> loss.backward()
        >>> round(loss.data, 4), round(a.grad, 4)
        (0.4997, -0.002)

    Source: micrograd and microgpt.py (Karpathy).
    """

    __array_ufunc__: ClassVar[None]
    data: float
    """The number, a float. Assigning to it changes the node (and its Matrix); results that were
    computed before keep their numbers.
    """
    grad: float
    """The gradient that backward() has accumulated, a float."""
    def __new__(cls, data: _Number = 0.0) -> Value: ...
    @property
    def children(self) -> tuple[Value, ...]:
        """The operands, a tuple of 0, 1 or 2 Values. Numbers are part of the operation."""
    @property
    def op(self) -> str:
        """The operation: '+', '*', '+2.0', '*2.0', '**2.0', 'neg', 'exp', …; '' for a leaf."""
    def exp(self) -> Value:
        """Return e**self as a new Value; inf on overflow, as in IEEE 754."""
    def log(self) -> Value:
        """Return the natural logarithm as a new Value.

        log(0) is -inf, the log of a negative number is nan.
        """
    def relu(self) -> Value:
        """Return self if it is positive, otherwise 0, as a new Value.

        relu(nan) is nan; the gradient at 0 is 0.
        """
    def tanh(self) -> Value:
        """Return the hyperbolic tangent as a new Value; the local gradient is 1 - tanh**2."""
    def backward(self) -> None:
        """Set self.grad to 1 and add d self / d v to v.grad for every Value v under self.

        Gradients add up over calls, and a Value passes on what has added up in it. So call
        zero_grad() before a second backward() through the same Values. They are added in
        microgpt.py's order: depth-first post-order, children from left to right, reversed. The
        depth is not limited.

        Raises RecordingError while a function is being recorded.

        Example:
            >>> from nanochat import Value
            >>> x = Value(3.0)
            >>> (x * x).backward()
            >>> x.grad
            6.0
        """
    def zero_grad(self) -> None:
        """Set the gradient of self and of every Value under it to 0."""
    def to_svg(
        self, *, names: Mapping[str, Value | Sequence[Value]] | None = None, most: int = 300
    ) -> str:
        """Return the graph that computes self as the text of an SVG image, with numbers and
        gradients. Call backward() first to see gradients.

        Args:
            names: Values by the name that their box shows; of a list, each by its index.
            most: nodes to draw, those nearest to self.

        Raises ConfigError for `most` below 1.

        Example:
            >>> from nanochat import Value
            >>> a, b = Value(2.0), Value(3.0)
            >>> product = a * b
            >>> product.backward()
            >>> product.to_svg(names={'a': a, 'b': b}).startswith('<svg')
            True
        """
    def _repr_svg_(self) -> str | None: ...
    def __add__(self, other: Value | _Number, /) -> Value: ...
    def __radd__(self, other: _Number, /) -> Value: ...
    def __sub__(self, other: Value | _Number, /) -> Value: ...
    def __rsub__(self, other: _Number, /) -> Value: ...
    def __mul__(self, other: Value | _Number, /) -> Value: ...
    def __rmul__(self, other: _Number, /) -> Value: ...
    def __truediv__(self, other: Value | _Number, /) -> Value: ...
    def __rtruediv__(self, other: _Number, /) -> Value: ...
    def __pow__(self, exponent: _Number, modulus: None = None, /) -> Value: ...
    def __neg__(self) -> Value: ...
    def __pos__(self) -> Value: ...
    def __float__(self) -> float: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class NoGrad:
    """The context manager of Tape.no_grad(): operations record no operands."""
    def __enter__(self) -> None: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

class Tape:
    """Tape(dtype='float64'): the memory in which Values live.

    Values of different tapes cannot be combined. With dtype 'float32' every value, local
    gradient, product and accumulated gradient is rounded to float32.

    Raises ValueError for another dtype.

    Example:
        >>> from nanochat.scalar.value import Tape
        >>> tape = Tape()
        >>> x = tape.value(3.0)
        >>> with tape.no_grad():
        ...     (x * x).children
        ()
    """
    def __init__(self, dtype: Literal["float64", "float32"] | str = "float64") -> None: ...
    def value(self, data: _Number = 0.0) -> Value:
        """Return a new Value without operands."""
    def matrix(self, rows: int, cols: int) -> Matrix:
        """Return a Matrix of rows x cols parameters, all zero.

        Raises ValueError unless both are at least 1, MemoryError beyond 2^31 nodes.
        """
    def no_grad(self) -> NoGrad:
        """Return a context manager inside which operations compute values and record no
        operands. A result is then freed as soon as its Value is. It can be nested.
        """
    @property
    def recording(self) -> bool:
        """Whether operations record their operands. False inside no_grad()."""
    @property
    def nodes(self) -> int:
        """Number of live nodes: results, leaves and the parameters of live matrices."""
    @property
    def segments(self) -> int:
        """Number of allocated segments of 4096 nodes, including free ones."""
    @property
    def bytes(self) -> int:
        """Bytes allocated for nodes, including free ones: the peak of this tape. backward()
        keeps 4 more bytes per node that it has ordered.
        """
    @property
    def dtype(self) -> str:
        """The dtype, 'float64' or 'float32'."""

class Matrix:
    """A block of parameters: rows x cols Values with contiguous values and gradients.

    Matrix(rows) copies a sequence of rows (lists of numbers, or a 2-D NumPy array) to the
    default tape. Tape.matrix(rows, cols) creates a matrix of zeros on any tape.

    The memory lives as long as the Matrix, a NumPy view of it, one of its Values, or a result
    that was computed from one.

    Raises:
        TypeError: an element is not a number, or `rows` is not a sequence of sequences.
        ValueError: the rows differ in length, or there is no row or no column.

    Example:
        >>> from nanochat import Matrix
        >>> w = Matrix([[1.0, 2.0], [3.0, 4.0]])
        >>> a, b = w.row(1)
        >>> (a * b).backward()
        >>> w.grads.tolist()
        [[0.0, 0.0], [4.0, 3.0]]
    """
    def __init__(self, rows: Sequence[Sequence[float]]) -> None: ...
    def __getitem__(self, token: int | Token) -> list[Value]:
        """Return the Values of one row, as row()."""
    def __iter__(self) -> Iterator[list[Value]]: ...
    def __len__(self) -> int: ...
    @property
    def shape(self) -> tuple[int, int]:
        """The shape, a tuple (rows, cols)."""
    @property
    def values(self) -> NDArray[np.float64]:
        """The parameters as a NumPy view, (rows, cols) float64. Writing to the view writes the
        parameters. On a float32 tape, write numbers that float32 can represent. TypeError
        while compile() records the tape.
        """
    @property
    def grads(self) -> NDArray[np.float64]:
        """The gradients as a NumPy view, (rows, cols) float64. TypeError while compile() records
        the tape.
        """
    def row(self, token: int | Token) -> list[Value]:
        """Return the Values of one row as a new list of `cols` Values.

        Every call returns the same Value objects. In a function that compile() records, `token` may
        be a Token: the replay then reads the row of the token that it is given.

        Args:
            token: an int from 0 to rows - 1, or a Token.

        Raises:
            IndexError: the row is outside the matrix. A negative row does not count from the end.
            TypeError: `token` is neither an int nor a Token.
            RuntimeError: `token` is a Token and no function is being recorded.
        """
    def rows(self) -> list[list[Value]]:
        """Return the Values of all rows as a list of lists."""
    def zero_grad(self) -> None:
        """Set all gradients of the matrix to 0."""
    def _repr_html_(self) -> str: ...

def default_tape() -> Tape:
    """Return the tape of Value(data) and Matrix(rows): float64, one per process."""

@overload
def select(values: Sequence[_T], index: int) -> _T:
    """Return values[index], the same Value object.

    In a function that compile() records, `index` may be a Token: the replay then selects the
    value of the token that it is given. A plain index of a list would be frozen into the
    program.

    Args:
        values: a sequence of Values.
        index: an int from 0 to len(values) - 1, or a Token.

    Raises:
        IndexError: the index is out of range. A negative index does not count from the end.
        TypeError: the index is neither an int nor a Token, or a value of a recorded selection
            is not a Value.
        RuntimeError: `index` is a Token and no function is being recorded.

    Example:
        >>> from nanochat import Value, select
        >>> select([Value(0.1), Value(0.7)], 1)
        Value(data=0.7, grad=0.0)
    """

@overload
def select(values: Sequence[Value], index: Token) -> Value: ...
def detached_max(values: Iterable[Value | _Number]) -> float:
    """Return the largest number of `values` as a constant: no gradient flows through it.

    The result is a float, or in a function that compile() records a Value that each replay
    computes again. As with max(), a nan in the first place stays.

    Args:
        values: an iterable of Values and numbers. While recording: of Values only.

    Raises:
        ValueError: there are no values.
        TypeError: an item is not a Value or a number.

    Example:
        >>> from nanochat import Value, detached_max
        >>> detached_max([Value(1.0), Value(3.0)])
        3.0
    """

def adamw_step(
    matrix: Matrix,
    m: NDArray[np.float64],
    v: NDArray[np.float64],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    t: int,
    grad_scale: float = 1.0,
) -> None:
    """Update a Matrix in place by one AdamW step (Loshchilov & Hutter 2019; decoupled decay).

    Without weight decay the result is bit-identical to microgpt.py's Adam. On a float32 tape
    the parameters, m and v are rounded to float32 after the update.

    Args:
        m, v: writable C-contiguous float64 arrays of rows * cols elements, updated in place.
        t: the number of this step, from 1.
        grad_scale: factor of every gradient, applied first.

    Raises ValueError for t < 1 or a state of the wrong size, TypeError for a state of another
    dtype or layout.
    """

def sgd_step(
    matrix: Matrix,
    buf: NDArray[np.float64],
    lr: float,
    momentum: float,
    weight_decay: float,
    first: bool,
    grad_scale: float = 1.0,
) -> None:
    """Update a Matrix in place by one SGD step with momentum and decoupled weight decay.

    Args:
        buf: a writable C-contiguous float64 array of rows * cols elements. The first step
            stores the gradient in it, later steps momentum * buf + grad, as torch.optim.SGD.
        first: whether this is the first step.

    Raises the errors of adamw_step.
    """

def grad_sum_of_squares(matrix: Matrix) -> float:
    """Return the sum of the squared gradients, added in order, as a float."""

def draw_tokens(
    logits: NDArray[np.floating],
    random: NDArray[np.uint64],
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    threads: int = 1,
) -> NDArray[np.int64]:
    """Sample one token per row: the same tokens as nanochat.sampling.draw.draw.

    Args:
        logits: (rows, vocab) float32 or float64.
        random: (rows,) uint64, C-contiguous.
        temperature: 0 takes the largest logit, of equal ones the first.
        top_k: number of tokens to keep; 0 keeps all.
        threads: at least 1. The tokens are equal for any number.

    Returns an int64 array (rows,). Raises ValueError for an option that is out of range,
    LogitsError for a row that holds NaN or only -inf, TypeError for another dtype.
    """

class Token:
    """The token of one slot of a recorded function.

    compile() passes Tokens to the function that it records. Matrix.row() and
    select() accept a Token in place of an int; each replay supplies the int.
    Every other use of the number raises TypeError.
    """
    def __init__(self, slot: int, value: int) -> None: ...
    @property
    def slot(self) -> int:
        """The position of the token in a document, an int."""

class RecordingError(RuntimeError): ...

class Recorder:
    """Recorder(tape, parameters): records the operations on a tape inside `with recorder:`.

    parameters: Matrices and Values without operands. Raises TypeError for another object,
    ValueError for a parameter that is on another tape, has operands or is given twice.
    """
    def __init__(self, tape: Tape, parameters: Sequence[Matrix | Value]) -> None: ...
    def input(self, slot: int, value: float = 0.0) -> Value:
        """Return a Value that each replay sets to number `slot` of its inputs."""
    def __enter__(self) -> Recorder: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

class Program:
    """A recorded function, optimized, with its parameters and optimizer state.

    nanochat.compile() and the scalar engine use it; documents are sequences of tokens and
    inputs (step, loss, grad) or arrays of a whole batch (forward). One call runs at a time: a
    second one raises ProgramError.
    """
    @staticmethod
    def compile(
        recorder: Recorder,
        outputs: Sequence[Value],
        watched: Sequence[Value],
        numerics: str,
        dtype: str,
        mean: bool = True,
        dump_nodes: int = 0,
        given_tokens: int = 0,
        given_inputs: int = 0,
        threads: int = 1,
    ) -> Program:
        """Optimize what a Recorder has recorded. `watched`: Values whose numbers watched()
        returns.
        """
    def step(
        self,
        tokens: Any = None,
        inputs: Any = None,
        lr: float = 0.01,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> float:
        """Run one AdamW step on the mean of the documents; return the loss before it."""
    def loss(self, tokens: Any = None, inputs: Any = None) -> float:
        """Return the mean loss of the documents."""
    def grad(self, tokens: Any = None, inputs: Any = None) -> float:
        """Return the mean loss; store its gradients in the parameters' Values."""
    def load(self) -> None:
        """Copy the parameters from their Values to the program."""
    def store(self) -> None:
        """Copy the parameters from the program to their Values."""
    def forward(
        self,
        lengths: NDArray[np.int32],
        tokens: NDArray[np.int32],
        scale: NDArray[np.float64],
        inputs: NDArray[np.float64] | None = None,
        counted: NDArray[np.uint8] | None = None,
        accumulate: bool | None = None,
    ) -> NDArray[np.float64]:
        """Run a batch; return the sum of the outputs of each document, (documents,) float64.

        lengths: (documents,) positions. tokens: (documents, slots). scale: (documents,), the
        gradient of each output. inputs: (documents, inputs). counted: (documents, positions), 0
        for an output that does not count. accumulate: None runs no backward pass; otherwise
        whether the gradients are added to the previous ones.
        """
    def backward(self, accumulate: bool = False) -> None:
        """Compute the gradients of the last forward(), which must have had no backward pass."""
    def adamw(
        self,
        begin: int,
        end: int,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        t: int,
        grad_scale: float = 1.0,
    ) -> None:
        """Update parameters begin … end - 1 by one AdamW step."""
    def steps(
        self,
        lengths: NDArray[np.int32],
        tokens: NDArray[np.int32],
        scale: NDArray[np.float64],
        inputs: NDArray[np.float64] | None,
        counted: NDArray[np.uint8] | None,
        documents: NDArray[np.int32],
        ends: Sequence[int],
        rates: NDArray[np.float64],
        *,
        adamw: bool,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        grad_clip: float,
        done: int,
        documents_at_once: int,
        watched: NDArray[np.int32] | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], int, NDArray[np.float64]]:
        """Take consecutive optimizer steps; return (losses, gradient norms, steps taken, recorded).

        The documents of all steps are one batch, as in forward(). documents: (steps,
        microbatches), how many each has. ends: of the ranges of parameters that have separate
        rates. rates: (steps, ranges). done: steps before these. documents_at_once: per forward
        and backward pass, at most. The loss of a step is the sum of scale times the outputs. A
        step whose loss or gradient norm is not finite makes no update and is the last: its
        figures are at index `steps taken`. watched: indices of parameters. recorded:
        (steps, watched, 5), of each step taken the weight and the gradient before the update,
        and after it the moments (NaN without a second one) and the change of the weight.
        """
    def sgd(
        self,
        begin: int,
        end: int,
        lr: float,
        momentum: float,
        weight_decay: float,
        first: bool,
        grad_scale: float = 1.0,
    ) -> None:
        """Update parameters begin … end - 1 by one SGD step."""
    def grad_sum_of_squares(self) -> float:
        """Return the sum of the squared gradients, a float."""
    def outputs(self) -> NDArray[np.float64]:
        """Return the outputs of the last forward(), (documents, positions) float64; 0 beyond the
        length of a document.
        """
    def watched(self, begin: int, end: int) -> NDArray[np.float64]:
        """Return watched values begin … end - 1 of the last forward(), (documents, end - begin)."""
    def listing(self) -> str:
        """Return the vector program as text."""
    def to_c(self) -> str:
        """Return a C file that trains the program from its present state."""
    @property
    def values(self) -> NDArray[np.floating]: ...
    @property
    def gradients(self) -> NDArray[np.floating]: ...
    @property
    def first_moments(self) -> NDArray[np.floating]: ...
    @property
    def second_moments(self) -> NDArray[np.floating]: ...
    @property
    def positions(self) -> int: ...
    @property
    def slots(self) -> int: ...
    @property
    def inputs(self) -> int: ...
    @property
    def limits(self) -> list[int]: ...
    @property
    def fewest_tokens(self) -> int: ...
    @property
    def weight(self) -> float: ...
    @property
    def ordered(self) -> bool: ...
    @property
    def passes(self) -> list[tuple[str, str]]: ...
    @property
    def verified(self) -> bool: ...
    @property
    def shards(self) -> int: ...
    @property
    def bytes(self) -> int: ...
