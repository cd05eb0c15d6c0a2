//! Messages for the user on the terminal.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::ProgressBar;

/// Whether another process of the job prints the messages.
static IS_QUIET: AtomicBool = AtomicBool::new(false);

/// Makes this process print only errors, because the first process of its job prints the messages for all.
pub(crate) fn be_quiet() {
    IS_QUIET.store(true, Ordering::Relaxed);
}

/// A progress bar of this length, hidden if the process is quiet.
pub(crate) fn progress_bar(length: usize) -> ProgressBar {
    if IS_QUIET.load(Ordering::Relaxed) { ProgressBar::hidden() } else { ProgressBar::new(length as u64) }
}

/// Prints a line to standard output. Returns whether it was written. It fails if the reader has closed the
/// pipe, as `head` does after its lines; a run should not lose its results because of that.
pub fn say(line: impl Display) -> bool {
    !IS_QUIET.load(Ordering::Relaxed) && writeln!(io::stdout(), "{line}").is_ok()
}

/// Prints a line to standard error, as [`say`] does to standard output.
pub fn say_error(line: impl Display) -> bool {
    writeln!(io::stderr(), "{line}").is_ok()
}

/// Prints a warning to standard error.
pub fn warn(warning: impl Display) -> bool {
    !IS_QUIET.load(Ordering::Relaxed) && say_error(format_args!("warning: {warning}"))
}

/// An error with its causes in one line. Many messages of libraries already end with their cause; each cause
/// is printed once.
pub fn one_line(error: &anyhow::Error) -> String {
    let text = |cause: &(dyn std::error::Error + 'static)| match cause.downcast_ref() {
        Some(error) => crate::pictures::with_flag(error),
        None => cause.to_string(),
    };
    let mut line = String::new();
    for cause in error.chain().map(text) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::*;

    #[test]
    fn each_cause_is_printed_once() {
        let cause = || anyhow!("connection refused");
        let whole = cause().context("cannot reach the hub (connection refused): check the network");
        assert_eq!(one_line(&whole), "cannot reach the hub (connection refused): check the network");
        let bare = Err::<(), _>(cause()).context("no dataset").unwrap_err();
        assert_eq!(one_line(&bare), "no dataset: connection refused");
    }
}
