//! `caisson image export`.

use std::{
    fs,
    io::{self, IsTerminal, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, anyhow, bail};
use caisson_core::Stream;
use caisson_image::Reference;
use clap::Args;
use http_body_util::BodyExt;
use tempfile::NamedTempFile;

use super::place::{self, Place, query};
use crate::{
    client::ServerArgs,
    output,
    waiting::{Copying, spinner},
};

/// Write an image as one archive that is an OCI layout and what `docker load` takes; all digests stay
#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// Such as alpine:3.20
    #[arg(value_name = "IMAGE")]
    name: String,
    /// Where to write, whole or not at all; standard output when absent
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArgs,
}

/// Where it goes.
enum Out {
    Stdout,
    /// Under a name of its own until it is whole.
    File(NamedTempFile, PathBuf),
}

impl Out {
    fn open(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else {
            if io::stdout().is_terminal() {
                bail!("standard output is a terminal; name a file with -o, or send it on with `|`");
            }
            return Ok(Self::Stdout);
        };
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = tempfile::Builder::new().prefix(".caisson-").permissions(fs::Permissions::from_mode(0o644)).tempfile_in(directory);
        Ok(Self::File(file.with_context(|| format!("cannot write {}", path.display()))?, path.to_owned()))
    }

    fn finish(self) -> Result<()> {
        match self {
            Self::Stdout => Ok(()),
            Self::File(file, path) => {
                file.persist(&path).map_err(|error| error.error).with_context(|| format!("cannot write {}", path.display()))?;
                Ok(())
            }
        }
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout => output::write_here(Stream::Stdout, bytes).map(|()| bytes.len()).map_err(io::Error::other),
            Self::File(file, _) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout => Ok(()),
            Self::File(file, _) => file.flush(),
        }
    }
}

pub(super) fn run(args: &ExportArgs) -> Result<ExitCode> {
    place::with(&args.server, async |place| {
        match place {
            Place::Here(store) => {
                let name: Reference = args.name.parse()?;
                // Before a file is made for what is not there.
                let (_, _lease) = store.resolve(&name).await?;
                spinner("exporting", store.export(&name, Out::open(args.output.as_deref())?)).await?.finish()?;
            }
            Place::Server(client) => {
                let answer = client.get(&format!("/v1/images/export?{}", query(&args.name))).await?;
                let mut out = Out::open(args.output.as_deref())?;
                let copying = Copying::begin(&args.name, None);
                let mut body = answer.into_body();
                while let Some(frame) = body.frame().await {
                    let frame = frame.map_err(|error| anyhow!("the server's answer broke off: {error}"))?;
                    if let Ok(data) = frame.into_data() {
                        copying.advance(data.len());
                        out.write_all(&data).context("cannot write the archive")?;
                    }
                }
                out.finish()?;
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}
