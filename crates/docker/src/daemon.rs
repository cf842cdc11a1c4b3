//! A daemon that is there and new enough, and how its errors are told. It is trusted, as root of its host is: what it says of a container is not the
//! container's word.

use std::{error::Error as _, future::Future, io, time::Duration};

use bollard::{ClientVersion, Docker, errors::Error, models::SystemInfo};
use caisson_core::BackendError;
use tokio::{net::UnixStream, time::timeout};

use crate::endpoint::Endpoint;

/// No call of the API takes longer than this.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);
/// Version 20.10 of Docker: control group namespaces, and figures that do not take a second.
const OLDEST: ClientVersion = ClientVersion { major_version: 1, minor_version: 41 };

/// A daemon.
#[derive(Debug, Clone)]
pub(crate) struct Daemon {
    pub(crate) docker: Docker,
    pub(crate) endpoint: Endpoint,
}

/// Why a call has failed.
#[derive(Debug)]
pub(crate) enum Failed {
    /// There is no such thing.
    NotFound(String),
    /// It is on its way already, or in use.
    Conflict(String),
    Refused(String),
    /// Nothing is heard of the daemon.
    Silent(String),
}

impl Failed {
    pub(crate) fn text(self) -> String {
        match self {
            Self::NotFound(text) | Self::Conflict(text) | Self::Refused(text) | Self::Silent(text) => text,
        }
    }
}

impl From<Failed> for BackendError {
    fn from(failed: Failed) -> Self {
        let is_silent = matches!(failed, Failed::Silent(_));
        let text = failed.text();
        tracing::warn!("{text}");
        // What the daemon says has paths and addresses of its host in it.
        let what = text.split_once(": ").map_or(text.as_str(), |(what, _)| what).to_owned();
        // It may be back in a moment.
        if is_silent { Self::Exhausted(what) } else { Self::Failed(what) }
    }
}

impl Daemon {
    /// An error says what is missing and the remedy.
    pub(crate) async fn connect(endpoint: &Endpoint) -> Result<(Self, SystemInfo), BackendError> {
        let remedy = "start it, or say with DOCKER_HOST where it is";
        let unsupported = |what: String| BackendError::Unsupported(format!("{what} ({endpoint})"));
        let seconds = ANSWERS_WITHIN.as_secs();
        let made = match endpoint {
            Endpoint::Unix(path) => {
                match timeout(ANSWERS_WITHIN, UnixStream::connect(path))
                    .await
                    .map_err(|_| io::ErrorKind::TimedOut.into())
                    .and_then(|made| made)
                {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                        return Err(unsupported(format!(
                            "there is no permission to use the socket of the Docker daemon ({error}): run Caisson as root or in the socket's group, \
                             `docker` most of the time"
                        )));
                    }
                    Err(error) => return Err(unsupported(format!("there is no Docker daemon ({error}): {remedy}"))),
                }
                Docker::connect_with_unix(&path.display().to_string(), seconds, &OLDEST)
            }
            Endpoint::Plain(address) => Docker::connect_with_http(&format!("tcp://{address}"), seconds, &OLDEST),
            Endpoint::Tls { address, certificates } => {
                let file = |name: &str| certificates.join(name);
                Docker::connect_with_ssl(
                    &format!("tcp://{address}"),
                    &file("key.pem"),
                    &file("cert.pem"),
                    &file("ca.pem"),
                    seconds,
                    &OLDEST,
                )
            }
        };
        let docker = made.map_err(|error| unsupported(format!("the Docker daemon cannot be asked: {}", chain(&error))))?;
        let daemon = Self { docker, endpoint: endpoint.clone() };
        let version = daemon.call("ask for its version", daemon.docker.version()).await.map_err(|failed| match failed {
            Failed::Silent(text) => unsupported(format!("{text}: {remedy}")),
            other => unsupported(other.text()),
        })?;
        let api = version.api_version.unwrap_or_default();
        if numbers(&api).is_none_or(|numbers| numbers < (OLDEST.major_version, OLDEST.minor_version)) {
            let version = version.version.unwrap_or_default();
            return Err(unsupported(format!(
                "the Docker daemon is version {version} with version {api} of the API, and {}.{} is needed (Docker 20.10); update it",
                OLDEST.major_version, OLDEST.minor_version
            )));
        }
        let info = daemon.call("ask what it is", daemon.docker.info()).await?;
        Ok((daemon, info))
    }

    /// Makes a call of the API, for no longer than that may take.
    pub(crate) async fn call<T>(&self, what: &str, call: impl Future<Output = Result<T, Error>>) -> Result<T, Failed> {
        match timeout(ANSWERS_WITHIN, call).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Error::DockerResponseServerError { status_code, message })) => {
                let text = format!("the Docker daemon could not {what}: {}", tamed(&message));
                Err(match status_code {
                    404 => Failed::NotFound(text),
                    409 => Failed::Conflict(text),
                    _ => Failed::Refused(text),
                })
            }
            Ok(Err(error)) => Err(Failed::Silent(format!("the Docker daemon does not answer when it is to {what}: {}", chain(&error)))),
            Err(_) => Err(Failed::Silent(format!("the Docker daemon did not {what} within {} s", ANSWERS_WITHIN.as_secs()))),
        }
    }

    /// Whether it answers at all.
    pub(crate) async fn answers(&self) -> bool {
        matches!(timeout(Duration::from_secs(2), self.docker.ping()).await, Ok(Ok(_)))
    }
}

/// An error with its causes.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    tamed(&text)
}

/// What others say, for one line.
pub(crate) fn tamed(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(1000).collect()
}

/// The two numbers of a version of the API.
fn numbers(version: &str) -> Option<(usize, usize)> {
    let (major, minor) = version.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_the_api_have_two_numbers() {
        assert_eq!(numbers("1.41"), Some((1, 41)));
        assert!(numbers("1.9") < numbers("1.41"));
        for bad in ["", "1", "1.x", "v1.41"] {
            assert_eq!(numbers(bad), None, "{bad}");
        }
    }
}
