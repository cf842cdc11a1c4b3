//! Talking to registries ([OCI distribution spec]).
//!
//! Whatever answers may mean harm: bodies are bounded, redirects and token servers are asked only where `reach` allows it, and logins are sent
//! to nobody but the registry they are for and where it says that tokens are to be had.
//!
//! [OCI distribution spec]: https://github.com/opencontainers/distribution-spec/blob/main/spec.md

mod auth;
mod blob;
mod client;
mod reach;
mod retry;

use std::{sync::Arc, time::Duration};

use caisson_core::Digest;
use http::{HeaderValue, StatusCode, header};
use jiff::Timestamp;
use reqwest::{Client, Method, Response, Url};
use tokio::{sync::Mutex, time::sleep};

pub use self::reach::{Registries, Registry};
pub(crate) use self::{client::client, reach::Reach};
use crate::{
    Error,
    login::Login,
    manifest::{ACCEPTED, MAX_DOCUMENT},
};

const MAX_REDIRECTS: usize = 5;

/// One repository of one registry, as it is asked for one image.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    client: &'a Client,
    reach: &'a Reach,
    /// As it stands in names.
    registry: String,
    repository: String,
    base: Url,
    /// The name in errors.
    image: String,
    login: Option<Login>,
    /// What was last said in `Authorization`.
    authorization: Mutex<Option<HeaderValue>>,
}

/// A manifest or an index, as it came.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) bytes: Vec<u8>,
    pub(crate) media_type: Option<String>,
}

/// Why an attempt failed.
enum Failure {
    /// The next one may not.
    Again {
        error: Error,
        asked: Option<Duration>,
    },
    Final(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl<'a> Session<'a> {
    pub(crate) fn new(
        client: &'a Client,
        reach: &'a Reach,
        registry: &str,
        repository: &str,
        image: &str,
        login: Option<&Login>,
    ) -> Result<Self, Error> {
        // Where Docker Hub is served.
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        let scheme = if reach.is_insecure(registry) { "http" } else { "https" };
        let base = Url::parse(&format!("{scheme}://{host}/v2/{repository}/"));
        let base = base.map_err(|error| Error::Forbidden { host: host.to_owned(), why: format!("it is no address: {error}") })?;
        Ok(Self {
            client,
            reach,
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            base,
            image: image.to_owned(),
            login: login.cloned(),
            authorization: Mutex::new(None),
        })
    }

    /// By tag or digest.
    pub(crate) async fn manifest(&self, version: &str) -> Result<Fetched, Error> {
        let url = self.url(&format!("manifests/{version}"));
        self.whole(&url, Some(ACCEPTED)).await
    }

    /// A small blob.
    pub(crate) async fn document(&self, digest: Digest) -> Result<Vec<u8>, Error> {
        let url = self.url(&format!("blobs/{digest}"));
        Ok(self.whole(&url, None).await?.bytes)
    }

    /// Whether this registry gives a blob to whoever asks with this login.
    pub(crate) async fn has(&self, digest: Digest) -> Result<bool, Error> {
        let url = self.url(&format!("blobs/{digest}"));
        match self.send(Method::HEAD, &url, None, 0).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. } | Error::Denied { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn url(&self, rest: &str) -> Url {
        // Digests and tags have no characters that mean anything in an address.
        self.base.join(&format!("./{rest}")).expect("what is behind it is a path of plain characters")
    }

    /// A whole body, asked for again when it breaks off.
    async fn whole(&self, url: &Url, accept: Option<&str>) -> Result<Fetched, Error> {
        let mut failures = 0;
        loop {
            let response = self.send(Method::GET, url, accept, 0).await?;
            match self.body(response).await {
                Ok(fetched) => return Ok(fetched),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again { error, asked }) => {
                    failures += 1;
                    let pause = retry::pause(failures, asked).ok_or(error)?;
                    sleep(pause).await;
                }
            }
        }
    }

    async fn body(&self, mut response: Response) -> Result<Fetched, Failure> {
        let too_long = || Error::Size {
            what: format!("a manifest of {}", self.image),
            expected: MAX_DOCUMENT,
            found: format!("more than {MAX_DOCUMENT}"),
        };
        if response.content_length().is_some_and(|length| length > MAX_DOCUMENT) {
            return Err(too_long().into());
        }
        let media_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = media_type.map(|text| text.split(';').next().unwrap_or_default().trim().to_owned());
        let mut bytes = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| self.broken(error))? {
            if bytes.len() as u64 + piece.len() as u64 > MAX_DOCUMENT {
                return Err(too_long().into());
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(Fetched { bytes, media_type })
    }

    /// Asks until there is an answer, or it is clear that there will be none. `from` is the first byte that is wanted.
    async fn send(&self, method: Method, url: &Url, accept: Option<&str>, from: u64) -> Result<Response, Error> {
        let mut failures = 0;
        loop {
            match self.attempt(&method, url, accept, from).await {
                Ok(response) => return Ok(response),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again { error, asked }) => {
                    failures += 1;
                    let Some(pause) = retry::pause(failures, asked) else { return Err(error) };
                    tracing::debug!(registry = %self.registry, error = %error, pause_ms = pause.as_millis(), "Asking a registry again");
                    sleep(pause).await;
                }
            }
        }
    }

    async fn attempt(&self, method: &Method, url: &Url, accept: Option<&str>, from: u64) -> Result<Response, Failure> {
        let known = self.authorization.lock().await.clone();
        let mut response = self.request(method, url, accept, from, known.as_ref()).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let authorization = self.authorize(&response).await?;
            *self.authorization.lock().await = Some(authorization.clone());
            response = self.request(method, url, accept, from, Some(&authorization)).await?;
        }
        let mut url = url.clone();
        for _ in 0..MAX_REDIRECTS {
            if !response.status().is_redirection() {
                return self.judge(response);
            }
            let next = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let Some(next) = next.and_then(|next| url.join(next).ok()) else {
                return Err(self.odd("with a redirect to nowhere".to_owned()).into());
            };
            // Without what is in the request about whoever asks: it is another place's business.
            response = self.request(method, &next, accept, from, None).await?;
            url = next;
        }
        Err(self.odd("with redirects that do not end".to_owned()).into())
    }

    async fn request(
        &self,
        method: &Method,
        url: &Url,
        accept: Option<&str>,
        from: u64,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, Failure> {
        self.reach.check(url)?;
        let mut request = self.client.request(method.clone(), url.clone());
        if let Some(accept) = accept {
            request = request.header(header::ACCEPT, accept);
        }
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization.clone());
        }
        request.send().await.map_err(|error| self.broken(error))
    }

    fn judge(&self, response: Response) -> Result<Response, Failure> {
        let status = response.status();
        let (registry, name) = (self.registry.clone(), self.image.clone());
        if status.is_success() {
            return Ok(response);
        }
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.denied().into()),
            StatusCode::NOT_FOUND => Err(Error::NotFound { registry, name }.into()),
            StatusCode::TOO_MANY_REQUESTS => {
                let asked = retry::asked(response.headers(), Timestamp::now());
                Err(Failure::Again { error: Error::RateLimited { registry, again: asked }, asked })
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                Err(Failure::Again { error: self.odd("that it has no more bytes".to_owned()), asked: None })
            }
            status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
                let asked = retry::asked(response.headers(), Timestamp::now());
                Err(Failure::Again { error: self.odd(format!("with {}", status.as_u16())), asked })
            }
            status => Err(self.odd(format!("with {}", status.as_u16())).into()),
        }
    }

    fn denied(&self) -> Error {
        Error::Denied { registry: self.registry.clone(), name: self.image.clone(), logged_in: self.login.is_some() }
    }

    fn odd(&self, what: String) -> Error {
        Error::Registry { registry: self.registry.clone(), what }
    }

    /// A connection that did not come about, or broke.
    fn broken(&self, error: reqwest::Error) -> Failure {
        if let Some(forbidden) = reach::forbidden(&error) {
            return forbidden.into();
        }
        Failure::Again { error: Error::Unreachable { registry: self.registry.clone(), cause: Arc::new(error.without_url()) }, asked: None }
    }
}
