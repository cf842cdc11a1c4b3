//! Where steps are done: sandboxes of a server, each made of the image below, for one step.

use std::{cell::RefCell, fs::File, io::Seek, io::Write, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use caisson_server::{
    ErrorBody,
    native::types::{
        CommitBody, CommitConfigBody, CreateBody, ExecBody, FileBody, ImageBody, ImageDetailsBody, ImportedBody, LimitsBody, ListingBody,
        OutputEvent, ResultBody, SandboxBody, UnpackedBody,
    },
};
use http::{HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt, Full};

use super::{super::pull, told::Told};
use crate::client::{Body, Client, Refusal, percent};

/// How long the server may take to end what a build has left.
const END_WITHIN: Duration = Duration::from_secs(20);
/// Tables of accounts come to a few thousand bytes.
const MAX_TABLE: usize = 1 << 20;

/// See the module.
#[derive(Debug)]
pub(super) struct Workshop<'a> {
    client: &'a Client,
    limits: LimitsBody,
    storage: String,
    /// What the names of its sandboxes begin with.
    prefix: String,
    /// Names of those that have not ended yet.
    living: RefCell<Vec<String>>,
    made: RefCell<u32>,
}

/// A sandbox for one step.
#[derive(Debug)]
pub(super) struct Bench {
    name: String,
    /// Its path in the API.
    path: String,
}

/// What is at a path of a bench, links followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum There {
    Nothing,
    Directory,
    Other,
}

fn is_missing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refusal>().is_some_and(|refusal| refusal.status == StatusCode::NOT_FOUND)
}

impl<'a> Workshop<'a> {
    pub(super) fn new(client: &'a Client, limits: LimitsBody, storage: String) -> Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| anyhow!("the kernel's random generator failed: {error}"))?;
        let prefix = format!("build-{:016x}", u64::from_le_bytes(random));
        Ok(Self { client, limits, storage, prefix, living: RefCell::default(), made: RefCell::default() })
    }

    /// What is known of an image; `None` where there is none of this name.
    pub(super) async fn image(&self, name: &str) -> Result<Option<ImageDetailsBody>> {
        match self.client.json(Method::GET, &format!("/v1/images/inspect?name={}", percent(name.as_bytes())), None::<&()>).await {
            Ok(image) => Ok(Some(image)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gets an image from its registry.
    pub(super) async fn pull(&self, name: &str) -> Result<()> {
        pull::ask(self.client, name).await.map(drop)
    }

    /// Takes in the archive of a root file system.
    pub(super) async fn import(&self, name: &str, archive: Vec<u8>) -> Result<()> {
        let body = Full::from(archive).map_err(|never| match never {}).boxed_unsync();
        let target = format!("/v1/images/import?name={}", percent(name.as_bytes()));
        self.client.post::<ImportedBody>(&target, HeaderValue::from_static("application/octet-stream"), body).await.map(drop)
    }

    /// A sandbox of an image: as root, or as the user that the image names.
    pub(super) async fn begin(&self, image: &str, as_root: bool) -> Result<Bench> {
        let number = self.made.replace_with(|made| *made + 1);
        let name = format!("{}-{number}", self.prefix);
        let body = CreateBody {
            name: Some(name.clone()),
            image: Some(image.to_owned()),
            limits: Some(self.limits),
            storage: Some(self.storage.clone()),
            user: as_root.then(|| "root".to_owned()),
            lifetime_s: Some(None),
            ..CreateBody::default()
        };
        // From here on, as nobody knows how far the server is when we are interrupted.
        self.living.borrow_mut().push(name.clone());
        let made: SandboxBody = self.client.json(Method::POST, "/v1/sandboxes", Some(&body)).await?;
        Ok(Bench { name, path: format!("/v1/sandboxes/{}", percent(made.id.as_bytes())) })
    }

    /// Runs a program to its end.
    pub(super) async fn run(&self, bench: &Bench, body: &ExecBody, told: &mut Told) -> Result<ResultBody> {
        let mut events = self.client.events(Method::POST, &format!("{}/exec", bench.path), body).await?;
        let senseless = "the server sent an event that makes no sense; is it of this version?";
        while let Some(event) = events.next().await? {
            match event.name.as_str() {
                "stdout" | "stderr" => {
                    let piece: OutputEvent = serde_json::from_str(&event.data).context(senseless)?;
                    told.output(piece.bytes().context(senseless)?).await?;
                }
                "result" => return serde_json::from_str(&event.data).context(senseless),
                "error" => bail!("{}", serde_json::from_str::<ErrorBody>(&event.data).context(senseless)?.error.message),
                _ => {}
            }
        }
        bail!("the server closed the connection before the program had ended")
    }

    /// What is at a path.
    pub(super) async fn there(&self, bench: &Bench, path: &str) -> Result<There> {
        let encoded = percent(path.as_bytes());
        let list = format!("{}/files/list?limit=1&path={encoded}", bench.path);
        match self.client.json::<ListingBody>(Method::GET, &list, None::<&()>).await {
            Ok(_) => return Ok(There::Directory),
            Err(error) if error.is::<Refusal>() => {}
            Err(error) => return Err(error),
        }
        match self.client.json::<FileBody>(Method::GET, &format!("{}/files/stat?path={encoded}", bench.path), None::<&()>).await {
            Ok(_) => Ok(There::Other),
            Err(error) if is_missing(&error) => Ok(There::Nothing),
            Err(error) => Err(error),
        }
    }

    /// Paths that a pattern below the root means, in order.
    pub(super) async fn matching(&self, bench: &Bench, pattern: &str) -> Result<Vec<String>> {
        let (mut paths, mut cursor) = (Vec::new(), String::new());
        loop {
            let pattern = percent(pattern.as_bytes());
            let target = format!("{}/files/glob?path=/&limit=10000&pattern={pattern}{cursor}", bench.path);
            let page: ListingBody = self.client.json(Method::GET, &target, None::<&()>).await?;
            paths.extend(page.data.into_iter().map(|entry| entry.path));
            match page.next_cursor {
                Some(next) => cursor = format!("&cursor={}", percent(next.as_bytes())),
                None => return Ok(paths),
            }
        }
    }

    /// A small text of a bench; empty where there is none.
    pub(super) async fn table(&self, bench: &Bench, path: &str) -> Result<String> {
        let answer = match self.client.get(&format!("{}/files?path={}", bench.path, percent(path.as_bytes()))).await {
            Ok(answer) => answer,
            Err(error) if is_missing(&error) => return Ok(String::new()),
            Err(error) => return Err(error),
        };
        let body = http_body_util::Limited::new(answer.into_body(), MAX_TABLE).collect().await;
        let body = body.map_err(|error| anyhow!("cannot read {path} of the image: {error}"))?;
        Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
    }

    /// A directory with everything in it, or a file, as an archive in a file without a name.
    pub(super) async fn fetch(&self, bench: &Bench, path: &str) -> Result<File> {
        let target = format!("{}/files/archive?owners=true&path={}", bench.path, percent(path.as_bytes()));
        let mut body = self.client.get(&target).await?.into_body();
        let mut file = tempfile::tempfile().context("cannot make a temporary file")?;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| anyhow!("the copy is not whole, the connection to the server broke: {error}"))?;
            if let Ok(data) = frame.into_data() {
                file.write_all(&data).context("cannot write a temporary file")?;
            }
        }
        file.rewind().context("cannot read a temporary file")?;
        Ok(file)
    }

    /// Unpacks an archive into a directory, which is made if it is not there.
    pub(super) async fn unpack(&self, bench: &Bench, directory: &str, archive: Body) -> Result<UnpackedBody> {
        let target = format!("{}/files/archive?owners=true&path={}", bench.path, percent(directory.as_bytes()));
        let body = self.client.put(&target, None, archive).await?.into_body().collect().await.context("the server's answer broke off")?;
        serde_json::from_slice(&body.to_bytes()).context("the server's answer makes no sense; is it of this version?")
    }

    /// Writes a file.
    pub(super) async fn put(&self, bench: &Bench, path: &str, content: Vec<u8>) -> Result<()> {
        let target = format!("{}/files?path={}", bench.path, percent(path.as_bytes()));
        let length = Some(content.len() as u64);
        self.client.put(&target, length, Full::from(content).map_err(|never| match never {}).boxed_unsync()).await.map(drop)
    }

    /// Makes an image of what the sandbox is now.
    pub(super) async fn commit(&self, bench: &Bench, name: &str, config: Option<CommitConfigBody>, comment: &str) -> Result<ImageBody> {
        let comment = Some(comment.chars().take(1000).collect());
        let body = CommitBody { name: name.to_owned(), config, comment };
        self.client.json(Method::POST, &format!("{}/commit", bench.path), Some(&body)).await
    }

    /// Ends a sandbox.
    pub(super) async fn end(&self, bench: Bench) -> Result<()> {
        self.client.json::<SandboxBody>(Method::DELETE, &bench.path, None::<&()>).await?;
        self.living.borrow_mut().retain(|name| *name != bench.name);
        Ok(())
    }

    /// Ends all that are left after a step that failed or was interrupted. An error says what is still there.
    pub(super) async fn clear_up(&self) -> Result<()> {
        let left = std::mem::take(&mut *self.living.borrow_mut());
        let ending = async {
            for name in &left {
                // One that was never made has no name either.
                if let Ok(path) = self.client.sandbox(name).await {
                    self.client.json::<SandboxBody>(Method::DELETE, &path, None::<&()>).await?;
                }
            }
            anyhow::Ok(())
        };
        let why = match tokio::time::timeout(END_WITHIN, ending).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => "the server does not answer".to_owned(),
        };
        bail!("sandbox {} may still be there: {why}; `caisson rm` ends it", left.join(" "))
    }
}
