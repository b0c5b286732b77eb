//! Crashes on request, and rules that are broken on purpose: what proves that the tests could fail. And participants without code of
//! their own, for choreographies that a test makes up.
//!
//! Behind the feature `harness`. Without it this file is a type of no size and three macros that expand to nothing. With it, and
//! nothing asked for at run time, nobody's behaviour changes: so a workspace in which one package needs the harness can
//! still test its binaries.
//!
//! The invariant: a point has no effect of its own. It only lets somebody else decide that the code behind it never runs.

/// Lets whoever drives this node decide whether the code behind this line ever runs.
#[cfg(feature = "harness")]
macro_rules! reach {
    ($harness:expr, $point:ident) => {
        $harness.reach($crate::harness::Point::$point).await
    };
}
#[cfg(not(feature = "harness"))]
macro_rules! reach {
    ($harness:expr, $point:ident) => {{
        let _ = &$harness;
    }};
}

/// Whether this node plays with a broken rule.
#[cfg(feature = "harness")]
macro_rules! broken {
    ($harness:expr, $rule:ident) => {
        $harness.breaks($crate::harness::Rule::$rule)
    };
}
#[cfg(not(feature = "harness"))]
macro_rules! broken {
    ($harness:expr, $rule:ident) => {{
        let _ = &$harness;
        false
    }};
}

/// Whether this step's own code fails now, after it did its work.
#[cfg(feature = "harness")]
macro_rules! fails {
    ($harness:expr, $current:expr) => {
        $harness.fails($current.contract.name, $current.direction)
    };
}
#[cfg(not(feature = "harness"))]
macro_rules! fails {
    ($harness:expr, $current:expr) => {{
        let _ = &$harness;
        false
    }};
}

pub(crate) use {broken, fails, reach};

/// Nothing, in a build without the feature.
#[cfg(not(feature = "harness"))]
#[derive(Debug, Clone, Default)]
pub(crate) struct Harness;

#[cfg(not(feature = "harness"))]
impl Harness {
    pub(crate) const fn none() -> Self {
        Self
    }
}

#[cfg(feature = "harness")]
pub use asked::{CrashAt, Harness, Hook, Point, Rule, UnknownName};
#[cfg(feature = "harness")]
pub(crate) use asked::{expect_what_is_there, past};
#[cfg(feature = "harness")]
pub use scripted::{Decide, EFFECTS, Question};

#[cfg(feature = "harness")]
mod asked;
#[cfg(feature = "harness")]
mod scripted;
