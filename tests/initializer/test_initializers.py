"""Initializers: MindSpore's names, defaults, formulas and checks, with fans of the whole shape."""

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

import tritonparam
from tritonparam import Tensor
from tritonparam.initializer import (
    Constant,
    HeNormal,
    HeUniform,
    Initializer,
    LecunNormal,
    LecunUniform,
    Normal,
    One,
    Orthogonal,
    Sparse,
    TruncatedNormal,
    Uniform,
    VarianceScaling,
    XavierNormal,
    XavierUniform,
    Zero,
    fans,
    initializer,
)
from tritonparam.stream import law as laws

SHAPE = (40, 30, 3, 5)  # fan_in 450, fan_out 600
CUT = 0.87962566103423978


def uniform(bound):
    return laws.Uniform(low=-bound, high=bound)


# Each formula written out once more, with the fans as numbers.
FORMULAS = [
    (Zero(), laws.Constant(0)),
    (One(), laws.Constant(1)),
    (Constant(2.5), laws.Constant(2.5)),
    (Constant(np.float32(0.5)), laws.Constant(0.5)),
    (Uniform(), uniform(0.07)),
    (Uniform(2), uniform(2.0)),
    (Normal(), laws.Normal(mean=0.0, std=0.01)),
    (Normal(0.5, -1), laws.Normal(mean=-1.0, std=0.5)),
    (TruncatedNormal(), laws.TruncatedNormal(mean=0.0, std=0.01, low=-0.02, high=0.02)),
    (TruncatedNormal(0.5, 5.0, -1.0, 3.0), laws.TruncatedNormal(mean=5.0, std=0.5, low=4.5, high=6.5)),
    (XavierUniform(), uniform(math.sqrt(6 / 1050))),
    (XavierUniform(3), uniform(3 * math.sqrt(6 / 1050))),
    (XavierNormal(0.5), laws.Normal(mean=0.0, std=0.5 * math.sqrt(2 / 1050))),
    (HeUniform(), uniform(math.sqrt(6 / 450))),
    (HeUniform(mode="FAN_OUT", nonlinearity="sigmoid"), uniform(math.sqrt(3 / 600))),
    (HeUniform(negative_slope=2), uniform(math.sqrt(2 / 5) * math.sqrt(3 / 450))),
    (HeNormal(), laws.Normal(mean=0.0, std=math.sqrt(2 / 450))),
    (HeNormal(negative_slope=None), laws.Normal(mean=0.0, std=math.sqrt(2 / 1.0001 / 450))),
    (HeNormal(negative_slope=7, nonlinearity="relu"), laws.Normal(mean=0.0, std=math.sqrt(2 / 450))),
    (HeNormal(nonlinearity="tanh", mode="fan_out"), laws.Normal(mean=0.0, std=5 / 3 / math.sqrt(600))),
    (HeNormal(nonlinearity="conv_transpose3d"), laws.Normal(mean=0.0, std=1 / math.sqrt(450))),
    (VarianceScaling(distribution="untruncated_normal"), laws.Normal(mean=0.0, std=math.sqrt(1 / 450))),
    (VarianceScaling(2.0, "fan_avg", "Uniform"), uniform(math.sqrt(3 * 2 / 525))),
    (VarianceScaling(mode="fan_out", distribution="untruncated_normal"), laws.Normal(mean=0.0, std=math.sqrt(1 / 600))),
    (
        VarianceScaling(3.0),
        laws.TruncatedNormal(
            mean=0.0, std=math.sqrt(3 / 450) / CUT, low=-2 * math.sqrt(3 / 450) / CUT, high=2 * math.sqrt(3 / 450) / CUT
        ),
    ),
    (LecunNormal(), VarianceScaling(1.0, "fan_in", "truncated_normal").law(SHAPE)),
    (LecunUniform(), uniform(math.sqrt(3 / 450))),
]


@pytest.mark.parametrize(("init", "want"), FORMULAS, ids=[repr(init) for init, _ in FORMULAS])
def test_law_is_the_formula_in_the_fans_of_the_whole_shape(init, want):
    got = init.law(SHAPE)
    assert type(got) is type(want)
    for field in (field.name for field in dataclasses.fields(want)):
        assert getattr(got, field) == pytest.approx(getattr(want, field), rel=1e-15)


def test_truncation_constant_is_the_standard_deviation_of_the_cut_normal():
    """Var(z | |z| < 2) = 1 - 2*2*pdf(2) / (cdf(2) - cdf(-2))."""
    density, mass = math.exp(-2) / math.sqrt(2 * math.pi), math.erf(math.sqrt(2))
    law = VarianceScaling().law((1, 1))
    assert law.std == pytest.approx(1 / math.sqrt(1 - 4 * density / mass), rel=1e-14)


@pytest.mark.parametrize(
    ("shape", "want"), [((2, 3), (3, 2)), ((4, 3, 5), (15, 20)), ((8, 4, 3, 3, 100), (3600, 7200)), ((1, 1), (1, 1))]
)
def test_fans_count_every_trailing_dimension(shape, want):
    assert fans(shape) == want


@pytest.mark.parametrize(
    "init", [XavierUniform(), XavierNormal(), HeUniform(), HeNormal(), VarianceScaling(), LecunNormal(), LecunUniform()]
)
@pytest.mark.parametrize("shape", [(), (6,)])
def test_fans_of_less_than_two_dimensions_are_refused(init, shape):
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        initializer(init, shape)


ALIASES = {
    Zero: "zero zeros",
    One: "one ones",
    Uniform: "uniform",
    Normal: "normal",
    TruncatedNormal: "truncatednormal truncated_normal",
    XavierUniform: "xavieruniform xavier_uniform XavierUniform",
    XavierNormal: "xaviernormal xavier_normal",
    HeUniform: "heuniform he_uniform HE_UNIFORM",
    HeNormal: "henormal he_normal",
    VarianceScaling: "variancescaling variance_scaling",
    LecunNormal: "lecunnormal lecun_normal",
    LecunUniform: "lecununiform lecun_uniform",
}


@pytest.mark.parametrize(("kind", "alias"), [(kind, alias) for kind, text in ALIASES.items() for alias in text.split()])
def test_a_name_in_any_case_is_the_class_with_its_defaults(kind, alias):
    tensor = initializer(alias, [4, 6], "float16")
    assert tensor.has_init
    assert (tensor.shape, str(tensor.dtype)) == ((4, 6), "Float16")
    assert tensor._law == kind().law((4, 6))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Uniform(-0.1),
        lambda: Uniform(math.inf),
        lambda: Normal(sigma=-1.0),
        lambda: Normal(mean=math.nan),
        lambda: TruncatedNormal(sigma=0.0),
        lambda: TruncatedNormal(a=2.0, b=-2.0),
        lambda: XavierUniform(gain=-1),
        lambda: XavierNormal(gain=math.nan),
        lambda: HeNormal(mode="fan_avg"),
        lambda: HeUniform(nonlinearity="gelu"),
        lambda: HeNormal(negative_slope=True),
        lambda: VarianceScaling(scale=0.0),
        lambda: VarianceScaling(mode="fan"),
        lambda: VarianceScaling(distribution="normal"),
        lambda: initializer("nosuch", [2]),
        lambda: initializer("constant", [2]),
        lambda: initializer("", [2]),
        lambda: initializer("ones"),
        lambda: initializer("ones", [2, 0]),
        lambda: initializer("ones", [-1]),
        lambda: initializer("ones", [2.0]),
        lambda: initializer("ones", 2.0),
        lambda: initializer("ones", [True]),
        lambda: initializer("ones", [2**40, 2**40]),
        lambda: initializer("ones", [2], "float33"),
        lambda: initializer(300, [2], "uint8"),
        lambda: initializer(-1, [2], "uint64"),
        lambda: initializer(math.nan, [2], "int32"),
        lambda: initializer(1e300, [2]),
        lambda: initializer(Tensor([1.0]), [2]),
    ],
)
def test_bad_values_are_value_errors_and_count_no_tensor(make):
    with tritonparam.Generator(1) as generator:
        with pytest.raises(ValueError, match="got"):
            make()
        assert generator._occurrences == {}


@pytest.mark.parametrize(
    "make",
    [
        lambda: Uniform("1"),
        lambda: Normal(True),
        lambda: Constant("1"),
        lambda: Constant(1j),
        lambda: HeNormal(negative_slope="0"),
        lambda: VarianceScaling(None),
        lambda: initializer([""], [2]),
        lambda: initializer(None, [2]),
        lambda: initializer(Normal, [2]),
        lambda: initializer("ones", [2], float),
    ],
)
def test_wrong_types_are_type_errors(make):
    with pytest.raises(TypeError, match="got"):
        make()


@pytest.mark.parametrize("shape", ["23", {2, 3}, 1j, object(), [2, "3"], [2.0], [True], [-1], torch.ones(2), range(2)])
@pytest.mark.parametrize("init", ["ones", Tensor([1.0, 2.0])])
def test_a_bad_shape_is_a_value_error_as_in_mindspore(init, shape):
    with pytest.raises(ValueError, match=r"^shape must (be an int|hold ints)"):
        initializer(init, shape)


@pytest.mark.parametrize("number", [10**400, -(10**5000), Fraction(10**400, 3)], ids=["int", "negative", "Fraction"])
@pytest.mark.parametrize("kind", [Uniform, Normal, VarianceScaling, Orthogonal, Sparse, HeNormal])
def test_a_number_beyond_every_float_is_a_value_error(kind, number):
    with pytest.raises(ValueError, match=r"^\w+ must be a finite number.*, got .*(int of|Fraction)") as caught:
        kind(number)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "bool"])
def test_a_constant_beyond_every_float_is_a_value_error_or_true(dtype):
    if dtype == "bool":
        assert initializer(10**5000, [1], dtype).tolist() == [True]
        return
    with pytest.raises(ValueError, match="value must be"):
        initializer(10**5000, [1], dtype)


def test_a_fraction_is_a_constant():
    assert initializer(Fraction(1, 4), [1]).tolist() == [0.25]


def test_base_class_asks_for_a_law():
    with pytest.raises(NotImplementedError, match="law"):
        initializer(Initializer(), [2])


def test_users_derive_their_own():
    """A subclass sees the whole shape; what it returns must be a law."""

    class Depth(Initializer):
        def law(self, shape):
            return laws.Normal(mean=0.0, std=1.0 / shape[1])

    class Wrong(Initializer):
        def law(self, shape):
            return "normal"

    assert initializer(Depth(), [2, 4])._law == laws.Normal(mean=0.0, std=0.25)
    with pytest.raises(TypeError, match="must return a law"):
        initializer(Wrong(), [2])


def test_a_tensor_passes_through():
    tensor = Tensor([1.0, 2.0])
    assert initializer(tensor, 2) is tensor
    assert initializer(tensor, (2,), "int8") is tensor
    assert initializer(tensor) is tensor


@pytest.mark.parametrize("shape", [3, [3], (np.int64(3),)])
def test_shapes_may_be_ints_lists_and_numpy_integers(shape):
    tensor = initializer(True, shape, "int32")
    assert tensor.shape == (3,)
    assert type(tensor.shape[0]) is int
    assert tensor.asnumpy().tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("dtype", "want"),
    [("int32", [2, 2]), ("uint8", [2, 2]), ("bool", [True, True]), ("float16", [2.69921875, 2.69921875])],
)
def test_constants_are_cut_for_integers_and_rounded_for_floats(dtype, want):
    assert initializer(2.7, [2], dtype).asnumpy().tolist() == want


def test_random_numbers_are_cut_for_integers():
    """What a float tensor would hold, cut towards zero, as MindSpore does."""
    with tritonparam.Generator(5):
        floats = initializer(Normal(3.0), [100]).asnumpy()
    with tritonparam.Generator(5):
        integers = initializer(Normal(3.0), [100], "int16").asnumpy()
    assert integers.dtype == np.int16
    assert integers.any()
    np.testing.assert_array_equal(integers, np.trunc(floats))


def test_dtype_defaults_to_float32_and_accepts_torch():
    assert initializer("ones", 1).dtype == torch.float32
    assert initializer("ones", 1, torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "name", ["uniform", "normal", "truncatednormal", "xavier_uniform", "he_normal", "lecun_normal"]
)
def test_values_have_the_bounds_and_the_spread_of_their_law(name):
    """Kolmogorov-Smirnov against the law's own distribution: n = 10_000, p = 1e-6 (bound sqrt(-ln(p / 2) / 2 / n))."""
    tensor = initializer(name, [100, 100])
    law = tensor._law
    values = np.sort(tensor.asnumpy().ravel().astype(np.float64))
    if isinstance(law, laws.Uniform):
        cdf = (values - law.low) / (law.high - law.low)
        assert values[0] >= law.low
        assert values[-1] < law.high
    else:
        cdf = np.array([0.5 * math.erfc((law.mean - value) / law.std / math.sqrt(2)) for value in values])
        if isinstance(law, laws.TruncatedNormal):
            assert np.float32(law.low) <= values[0]
            assert values[-1] <= np.float32(law.high)
            cdf = (cdf - 0.5 * math.erfc(math.sqrt(2))) / math.erf(math.sqrt(2))
    ranks = np.arange(1, values.size + 1) / values.size
    distance = max(np.abs(cdf - ranks).max(), np.abs(cdf - ranks + 1 / values.size).max())
    assert distance < math.sqrt(-math.log(1e-6 / 2) / 2 / values.size)


def test_an_initialize_that_overrides_a_built_in_initializer_is_asked():
    """MindSpore's hook; the law of the class above was taken before, without a word."""

    class Five(Normal):
        def _initialize(self, arr):
            arr[:] = 5

    class Law(Five):
        def law(self, shape):
            return laws.Constant(7)

    class Again(Law):
        def _initialize(self, arr):
            arr[:] = 9

    made = [initializer(init, (2, 2)).asnumpy().tolist() for init in (Five(0.1), Law(0.1), Again(0.1))]
    assert made == [[[value] * 2] * 2 for value in (5.0, 7.0, 9.0)]
