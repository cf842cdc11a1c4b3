//! `caisson image import`.

use std::{
    fs::File,
    io::{self, IsTerminal, Read},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use caisson_image::{Reference, Source};
use caisson_server::native::types::{ImageBody, ImportedBody};
use clap::Args;
use http::HeaderValue;

use super::place::{self, Place, query};
use crate::{
    client::{ServerArgs, pieces, read_piece},
    output, printable,
    waiting::{Copying, spinner},
};

/// Take in an image that comes as a file, and print its name: an OCI layout, what `docker save` writes, or the tar of a root file system
#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// An archive, compressed or not; a directory with an OCI layout; or `-` for standard input
    #[arg(value_name = "FILE")]
    from: PathBuf,
    /// What it is to be called; needed for what says no name itself
    #[arg(long, value_name = "IMAGE")]
    name: Option<String>,
    /// Print what is known of the images as a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(args: &ImportArgs) -> Result<ExitCode> {
    place::with(&args.server, async |place| {
        let imported: ImportedBody = match place {
            Place::Server(client) => {
                if args.from.is_dir() {
                    let shown = args.from.display();
                    bail!("{shown} is a directory; send it as an archive: tar -C {shown} -c . | caisson image import -");
                }
                let (content, length) = open(&args.from)?;
                let copying = Copying::begin(&args.from.display().to_string(), length);
                let body = pieces(content, move |mut content| {
                    let piece = read_piece(&mut content)?;
                    copying.advance(piece.len());
                    Ok((!piece.is_empty()).then_some((piece, content)))
                });
                let target = match &args.name {
                    Some(name) => format!("/v1/images/import?{}", query(name)),
                    None => "/v1/images/import".to_owned(),
                };
                client.post(&target, HeaderValue::from_static("application/octet-stream"), body).await?
            }
            Place::Here(store) => {
                let name = args.name.as_ref().map(|name| name.parse::<Reference>()).transpose()?;
                let source = match args.from.is_dir() {
                    true => Source::Directory(args.from.clone()),
                    false => Source::Stream(open(&args.from)?.0),
                };
                let images = spinner("importing", store.import(source, name)).await?;
                let mut told = Vec::with_capacity(images.len());
                for image in images {
                    told.push(ImageBody::from(&store.inspect(&image.name.parse()?).await?.listed));
                }
                ImportedBody { images: told }
            }
        };
        if args.json {
            output::print_json(&imported)?;
        } else {
            let names = imported.images.iter().map(|image| format!("{}\n", printable::text(&image.name)));
            output::print(&names.collect::<String>())?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// What is to be read, and how much it is where that is known.
fn open(path: &Path) -> Result<(Box<dyn Read + Send>, Option<u64>)> {
    if path == Path::new("-") {
        if io::stdin().is_terminal() {
            bail!("standard input is a terminal; name a file, or write `docker save IMAGE | caisson image import -`");
        }
        return Ok((Box::new(io::stdin()), None));
    }
    let unreadable = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(unreadable)?;
    let metadata = file.metadata().with_context(unreadable)?;
    Ok((Box::new(file), Some(metadata.len()).filter(|_| metadata.is_file())))
}
