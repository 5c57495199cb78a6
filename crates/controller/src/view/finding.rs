//! Something that `quarry doctor` tells.

use quarry_proto::view::v1;

/// How bad it is. The worst is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Good to know; nothing has to be done.
    Note,
    /// Something will go wrong, or may.
    Warning,
    /// Something does not work.
    Error,
}

/// Something that was found, for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// A short name of what was checked, for programs: `node-unreachable`. These names stay.
    pub check: &'static str,
    /// What it is about: `node worker-1`.
    pub subject: String,
    /// What is wrong.
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

    /// Something that will go wrong, or may.
    pub fn warning(
        check: &'static str,
        subject: impl Into<String>,
        problem: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { level: Level::Warning, ..Self::error(check, subject, problem, advice) }
    }

    /// Something that is good to know.
    pub fn note(
        check: &'static str,
        subject: impl Into<String>,
        problem: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { level: Level::Note, ..Self::error(check, subject, problem, advice) }
    }
}

impl From<Finding> for v1::Finding {
    fn from(finding: Finding) -> Self {
        let level = match finding.level {
            Level::Note => v1::Level::Note,
            Level::Warning => v1::Level::Warning,
            Level::Error => v1::Level::Error,
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
