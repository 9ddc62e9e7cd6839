//! The answering side: accepts connections, checks who asks, hands questions to the agent's loop.

use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use super::{Answer, Request};

/// The longest question: a whole shadow document (8 KB) with room to spare.
const MAX_QUESTION: u64 = 64 * 1024;
/// A client that sends nothing, or reads nothing, is let go after this.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections answered at the same time; more wait in the kernel's backlog.
const AT_ONCE: usize = 16;

/// A question on its way to the agent's loop, and where the answer goes.
#[derive(Debug)]
pub struct Asked {
    /// The question.
    pub request: Request,
    /// Who asks, for the audit log (`uid 0`).
    pub who: String,
    /// Takes the answer.
    pub reply: oneshot::Sender<Answer>,
}

/// Why the socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The folder for the socket cannot be made.
    #[error("cannot make {path} for the control socket")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Somebody answers there already.
    #[error("another agent answers on {path}; stop it first")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Binding failed.
    #[error("cannot open the control socket {path}")]
    Bind {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Open the control socket at `path`, replacing one a dead agent left behind.
///
/// # Errors
/// [`ListenError`]; [`ListenError::InUse`] when a living agent answers there.
pub fn listen(path: &Path) -> Result<UnixListener, ListenError> {
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|source| ListenError::Folder {
                path: folder.to_owned(),
                source,
            })?;
    }
    let bind = |source| ListenError::Bind {
        path: path.to_owned(),
        source,
    };
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(ListenError::InUse { path: path.to_owned() });
    }
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(bind(error)),
    }
    let listener = UnixListener::bind(path).map_err(bind)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(bind)?;
    Ok(listener)
}

/// Answer on `listener` until the receiver of `questions` is gone. Never fails: a broken connection is one client's
/// problem.
pub async fn serve(listener: UnixListener, questions: mpsc::Sender<Asked>) {
    let own_uid = rustix::process::geteuid().as_raw();
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // out of file descriptors, most likely: give others time to close theirs
                Err(error) => {
                    tracing::warn!(%error, "control socket: cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = questions.closed() => return,
        };
        let questions = questions.clone();
        tokio::spawn(async move {
            let _place = place;
            let _ = tokio::time::timeout(PATIENCE, converse(stream, own_uid, &questions)).await;
        });
    }
}

async fn converse(mut stream: UnixStream, own_uid: u32, questions: &mpsc::Sender<Asked>) -> io::Result<()> {
    let asker = stream.peer_cred()?.uid();
    let answer = if asker == 0 || asker == own_uid {
        answer(&mut stream, format!("uid {asker}"), questions).await?
    } else {
        Answer::Error(format!(
            "user {asker} may not ask; only root and the agent's own user may"
        ))
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

async fn answer(stream: &mut UnixStream, who: String, questions: &mpsc::Sender<Asked>) -> io::Result<Answer> {
    let mut line = Vec::new();
    BufReader::new(stream.take(MAX_QUESTION))
        .read_until(b'\n', &mut line)
        .await?;
    let request = match serde_json::from_slice(&line) {
        Ok(request) => request,
        Err(error) => return Ok(Answer::Error(format!("request not understood: {error}"))),
    };
    let (reply, answered) = oneshot::channel();
    let gone = || Answer::Error("the agent is stopping".to_owned());
    if questions.send(Asked { request, who, reply }).await.is_err() {
        return Ok(gone());
    }
    Ok(answered.await.unwrap_or_else(|_| gone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    fn ask_in_thread(path: PathBuf, line: &'static [u8]) -> std::thread::JoinHandle<String> {
        std::thread::spawn(move || {
            use std::io::{Read, Write};
            let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
            stream.write_all(line).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        })
    }

    #[test]
    fn a_question_reaches_the_loop_and_its_answer_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/control.sock");
        runtime().block_on(async {
            let listener = listen(&path).unwrap();
            let (sender, mut questions) = mpsc::channel(1);
            tokio::spawn(serve(listener, sender));
            let client = {
                let path = path.clone();
                std::thread::spawn(move || super::super::ask(&path, &Request::Status).unwrap())
            };
            let asked = questions.recv().await.unwrap();
            assert_eq!(asked.request, Request::Status);
            asked.reply.send(Answer::Ok(serde_json::json!({"up": true}))).unwrap();
            assert_eq!(
                tokio::task::spawn_blocking(|| client.join().unwrap()).await.unwrap()["up"],
                true
            );
        });
    }

    #[test]
    fn garbage_gets_an_error_and_disturbs_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        runtime().block_on(async {
            let listener = listen(&path).unwrap();
            let (sender, _questions) = mpsc::channel(1);
            tokio::spawn(serve(listener, sender));
            for line in [&b"\xff\xfe\n"[..], b"{\"verb\":\"launch\"}\n"] {
                let client = ask_in_thread(path.clone(), line);
                let answer = tokio::task::spawn_blocking(|| client.join().unwrap()).await.unwrap();
                assert!(answer.starts_with("{\"error\":\"request not understood"), "{answer}");
            }
        });
    }

    #[test]
    fn a_living_agent_keeps_its_socket_and_a_dead_one_loses_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        runtime().block_on(async {
            let first = listen(&path).unwrap();
            assert!(matches!(listen(&path), Err(ListenError::InUse { .. })));
            drop(first);
            assert!(path.exists());
            listen(&path).unwrap();
        });
    }

    #[test]
    fn who_is_neither_root_nor_the_agents_user_is_refused_by_the_kernels_word() {
        assert!(rustix::process::geteuid().is_root(), "this test needs root");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let open = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        runtime().block_on(async {
            let listener = listen(&path).unwrap();
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            // the file's own permissions are not what is tried here
            open(dir.path(), 0o755);
            open(&path, 0o666);
            let (sender, mut questions) = mpsc::channel(1);
            tokio::spawn(serve(listener, sender));
            let nobody = std::thread::spawn({
                let path = path.clone();
                move || {
                    use std::io::{Read, Write};
                    // of this thread alone
                    rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65_534)).unwrap();
                    let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
                    // refused before it was heard
                    let _ = stream.write_all(b"{\"verb\":\"status\"}\n");
                    let mut answer = String::new();
                    let _ = stream.read_to_string(&mut answer);
                    answer
                }
            });
            let answer = tokio::task::spawn_blocking(|| nobody.join().unwrap()).await.unwrap();
            assert!(answer.contains("user 65534 may not ask"), "{answer}");
            assert!(questions.try_recv().is_err(), "its question reached the loop");
            let root = ask_in_thread(path.clone(), b"{\"verb\":\"status\"}\n");
            let asked = questions.recv().await.unwrap();
            assert_eq!((asked.request, asked.who.as_str()), (Request::Status, "uid 0"));
            asked.reply.send(Answer::Ok(serde_json::json!({}))).unwrap();
            tokio::task::spawn_blocking(|| root.join().unwrap()).await.unwrap();
        });
    }

    #[test]
    fn without_an_agent_the_client_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error = super::super::ask(&dir.path().join("control.sock"), &Request::Status).unwrap_err();
        assert!(error.to_string().contains("no agent is running"), "{error}");
    }
}
