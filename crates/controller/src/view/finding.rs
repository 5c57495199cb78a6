//! A finding of `quarry doctor`.

use quarry_proto::view::v2;

/// The severity. The most severe is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For information; no action is needed.
    Note,
    /// Something will fail, or may fail.
    Warning,
    /// Something does not work.
    Error,
}

/// A finding, for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The severity.
    pub level: Level,
    /// The short name of the check, for programs: `node-unreachable`. These names are stable.
    pub check: &'static str,
    /// The subject: `node worker-1`.
    pub subject: String,
    /// The problem.
    pub problem: String,
    /// What to do about it.
    pub advice: String,
}

impl Finding {
    /// Something that does not work.
    pub fn error(
        check: &'static str,
        subject: impl Into<String>,
        problem: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { level: Level::Error, check, subject: subject.into(), problem: problem.into(), advice: advice.into() }
    }

    /// Something that will fail, or may fail.
    pub fn warning(
        check: &'static str,
        subject: impl Into<String>,
        problem: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { level: Level::Warning, ..Self::error(check, subject, problem, advice) }
    }

    /// Something for information.
    pub fn note(
        check: &'static str,
        subject: impl Into<String>,
        problem: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { level: Level::Note, ..Self::error(check, subject, problem, advice) }
    }
}

impl From<Finding> for v2::Finding {
    fn from(finding: Finding) -> Self {
        let level = match finding.level {
            Level::Note => v2::Level::Note,
            Level::Warning => v2::Level::Warning,
            Level::Error => v2::Level::Error,
        };
        Self {
            level: level.into(),
            check: finding.check.to_owned(),
            subject: finding.subject,
            problem: finding.problem,
            advice: finding.advice,
        }
    }
}
