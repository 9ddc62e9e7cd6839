//! The process that measures custom metrics. The agent gives up the right to start programs, to read other files than its
//! own, and to look into other processes; what is named here needs just that. So it is started before, does nothing else,
//! and hears nobody but the agent: one line of JSON for each sample, one back.
//!
//! What it may be asked to read or run is fixed by the first configuration it hears: an agent somebody broke into cannot
//! make it run anything else.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::poked::Poked;
use super::sensors::{CustomAsk, CustomSample, Sensors};
use crate::config::{CustomMetric, MetricSource, Mode, RawConfig};
use crate::model::{Measured, Missing, Reason};

const NAME: &str = "custom metrics helper";
/// How long a sample waits for it: what may hang has 200 ms there.
const PATIENCE: Duration = Duration::from_millis(500);

/// Why there is no helper.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// This program cannot be found or started again.
    #[error("the process that measures custom metrics cannot be started")]
    Start(#[source] io::Error),
    /// The agent said something it should not.
    #[error("what the agent asks for is not understood")]
    Asked(#[source] serde_json::Error),
    /// The agent cannot be heard or answered.
    #[error("the agent cannot be heard or answered")]
    Pipe(#[source] io::Error),
}

/// The helper as the agent holds it. It ends when this is dropped, or when the agent ends in whatever way.
#[derive(Debug)]
pub struct Helper {
    child: Child,
    asks: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Helper {
    /// Starts this program again with these arguments, which must lead it to [`serve`].
    ///
    /// # Errors
    /// [`HelperError::Start`].
    pub fn start(arguments: &[&std::ffi::OsStr]) -> Result<Self, HelperError> {
        // This very program, also when its file was replaced or moved since.
        let mut child = Command::new("/proc/self/exe")
            .arg0(env!("CARGO_PKG_NAME"))
            .args(arguments)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(HelperError::Start)?;
        let (asks, answers) = (child.stdin.take(), child.stdout.take());
        let answers = answers.ok_or_else(|| HelperError::Start(io::ErrorKind::BrokenPipe.into()))?;
        Ok(Self {
            child,
            asks,
            answers: BufReader::new(answers),
        })
    }

    fn sample(&mut self, ask: &CustomAsk) -> Measured<CustomSample> {
        let failed = |error: io::Error| Missing::new(NAME, Reason::Absent, error.to_string());
        let question = Question {
            second_nanos: u64::try_from(ask.second.as_nanos()).unwrap_or(u64::MAX),
            metrics: json!(*ask.metrics),
        };
        let mut line = json!(question).to_string();
        line.push('\n');
        let asks = self
            .asks
            .as_mut()
            .ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
        asks.write_all(line.as_bytes()).map_err(failed)?;
        let mut answer = String::new();
        if self.answers.read_line(&mut answer).map_err(failed)? == 0 {
            return Err(Missing::new(
                NAME,
                Reason::Absent,
                "has ended; it comes back with the next start of the agent",
            ));
        }
        serde_json::from_str(&answer).map_err(|error| Missing::new(NAME, Reason::Malformed, error.to_string()))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.asks = None;
        let _ = self.child.wait();
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Question {
    second_nanos: u64,
    /// As in the configuration.
    metrics: Value,
}

/// What the helper does: answers questions on `input` on `output` until there are no more.
///
/// # Errors
/// [`HelperError::Asked`], [`HelperError::Pipe`].
pub fn serve(state_dir: &Path, input: impl BufRead, mut output: impl Write) -> Result<(), HelperError> {
    let mut sensors = Sensors::new(state_dir);
    let mut fixed: Option<Vec<CustomMetric>> = None;
    for line in input.lines() {
        let line = line.map_err(HelperError::Pipe)?;
        let question: Question = serde_json::from_str(&line).map_err(HelperError::Asked)?;
        let config = RawConfig::from_value(json!({"customMetrics": question.metrics}))
            .check(Mode::Standalone)
            .map_err(|error| HelperError::Asked(serde::de::Error::custom(error)))?;
        let metrics = config.custom_metrics;
        if fixed.is_none() && !metrics.is_empty() {
            fixed = Some(metrics.clone());
        }
        let known = fixed.as_deref().unwrap_or_default();
        let is_fixed = |metric: &CustomMetric| !metric.source.is_free() || known.contains(metric);
        let (taken, refused): (Vec<_>, Vec<_>) = metrics.into_iter().partition(is_fixed);
        let second = Duration::from_nanos(question.second_nanos);
        let mut sample = sensors.collect(&CustomAsk {
            metrics: taken.into(),
            second,
        });
        let words = "files and commands named while the agent runs count from its next start on";
        let refused = CustomAsk {
            metrics: refused.into(),
            second,
        };
        let refused = CustomSample::missing(&refused, &Missing::new(NAME, Reason::Denied, words));
        sample.values.extend(refused.values);
        sample.changes.extend(refused.changes);
        let mut line = serde_json::to_string(&sample).map_err(HelperError::Asked)?;
        line.push('\n');
        output.write_all(line.as_bytes()).map_err(HelperError::Pipe)?;
        output.flush().map_err(HelperError::Pipe)?;
    }
    Ok(())
}

/// Where samples of custom metrics come from.
#[derive(Debug)]
pub(in crate::agent) enum Source {
    /// From this process, as far as it may.
    Here(Box<Sensors>),
    /// From the helper, on a thread that may wait for it.
    Helper {
        ask: Arc<Mutex<Option<CustomAsk>>>,
        poked: Poked<CustomSample>,
    },
}

impl Source {
    pub(in crate::agent) fn new(helper: Option<Helper>, state_dir: &Path) -> Self {
        let here = || Self::Here(Box::new(Sensors::new(state_dir)));
        let Some(mut helper) = helper else {
            return here();
        };
        let ask: Arc<Mutex<Option<CustomAsk>>> = Arc::default();
        let asked = Arc::clone(&ask);
        let look = move || {
            let ask = asked.lock().unwrap_or_else(PoisonError::into_inner).clone();
            ask.map_or_else(|| Ok(CustomSample::default()), |ask| helper.sample(&ask))
        };
        match Poked::start(NAME, look) {
            Ok(poked) => Self::Helper { ask, poked },
            Err(missing) => {
                tracing::warn!("{missing}");
                here()
            }
        }
    }

    /// Measures once.
    pub(in crate::agent) fn collect(&mut self, wanted: &CustomAsk) -> CustomSample {
        match self {
            Self::Here(sensors) => {
                // The agent itself starts no program: it gave that up.
                let is_command = |metric: &CustomMetric| matches!(metric.source, MetricSource::Command { .. });
                let (commands, others): (Vec<_>, Vec<_>) = wanted.metrics.iter().cloned().partition(is_command);
                let mut sample = sensors.collect(&CustomAsk {
                    metrics: others.into(),
                    second: wanted.second,
                });
                let commands = CustomAsk {
                    metrics: commands.into(),
                    second: wanted.second,
                };
                let words = "commands are run by a process of their own, which comes with the next start";
                let missing = Missing::new(NAME, Reason::Denied, words);
                sample.values.extend(CustomSample::missing(&commands, &missing).values);
                sample
            }
            Self::Helper { ask, poked } => {
                if !wanted.metrics.iter().any(|metric| metric.source.is_of_host()) {
                    return CustomSample::default();
                }
                *ask.lock().unwrap_or_else(PoisonError::into_inner) = Some(wanted.clone());
                poked.ask();
                let answer = poked.answer(PATIENCE);
                answer.unwrap_or_else(|missing| CustomSample::missing(wanted, &missing))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(metrics: &Value) -> String {
        json!({"secondNanos": 1_000_000_000, "metrics": metrics}).to_string()
    }

    fn answers(questions: &[String]) -> Vec<CustomSample> {
        let folder = tempfile::tempdir().unwrap();
        let mut output = Vec::new();
        serve(folder.path(), questions.join("\n").as_bytes(), &mut output).unwrap();
        let lines = output.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
    }

    #[test]
    fn what_is_read_and_run_is_fixed_by_the_first_question_that_names_something() {
        let load = json!({"name": "load", "source": "load"});
        let file = json!({"name": "boot", "source": "file", "path": "/proc/uptime", "type": "string-list"});
        let other = json!({"name": "secret", "source": "file", "path": "/etc/hostname", "type": "string-list"});
        let renamed = json!({"name": "boot", "source": "file", "path": "/etc/hostname", "type": "string-list"});
        let samples = answers(&[
            question(&json!([])),
            question(&json!([file])),
            question(&json!([file, other, load])),
            question(&json!([renamed])),
        ]);
        assert!(samples[0].values.is_empty());
        assert!(samples[2].values["load"].is_ok(), "what has no choice may come later");
        // On a busy machine it may be late; it is not refused.
        let refused = |value: &Measured<_>| value.as_ref().is_err_and(|missing| missing.reason == Reason::Denied);
        assert!(!refused(&samples[1].values["boot"]) && !refused(&samples[2].values["boot"]));
        for (sample, name) in [(&samples[2], "secret"), (&samples[3], "boot")] {
            assert!(refused(&sample.values[name]), "{name}");
            let missing = sample.values[name].as_ref().unwrap_err();
            assert!(missing.detail.contains("next start"), "{missing}");
        }
    }

    #[test]
    fn what_is_no_question_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        for line in ["{", "{}", "{\"secondNanos\": 1, \"metrics\": [{\"name\": 1}]}"] {
            let served = serve(folder.path(), line.as_bytes(), Vec::new());
            assert!(matches!(served, Err(HelperError::Asked(_))), "{line}");
        }
    }
}
