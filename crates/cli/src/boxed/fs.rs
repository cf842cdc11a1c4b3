//! `boxed fs`: files of a sandbox.

use std::{
    fs::File,
    io::{self, Read},
};

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use caisson_core::Stream;
use futures::{StreamExt, stream};
use http::{HeaderValue, Method};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde::de::IgnoredAny;

use super::{
    cli::{CpArgs, PlaceArgs},
    sandbox, say,
    types::Listing,
};
use crate::{
    client::{Body, Client, percent},
    output, table,
};

const PIECE: usize = 64 << 10;

pub(super) async fn ls(client: &Client, args: &PlaceArgs) -> Result<()> {
    let (id, path) = args.place();
    let target = format!("{}/files?path={}", sandbox(id), percent(path.unwrap_or("/").as_bytes()));
    let Listing { files } = client.json(Method::GET, &target, None::<&()>).await?;
    let rows: Vec<Vec<String>> =
        files.into_iter().map(|file| vec![mode(file.mode), file.size.to_string(), file.last_modified, file.path]).collect();
    output::print(&table::render(&["MODE", "SIZE", "UPDATED", "NAME"], &rows))
}

/// As `ls` shows it.
fn mode(mode: u32) -> String {
    let kind = match mode & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        _ => '-',
    };
    let bit = |(index, letter): (usize, char)| if mode & (0o400 >> index) == 0 { '-' } else { letter };
    std::iter::once(kind).chain("rwxrwxrwx".chars().enumerate().map(bit)).collect()
}

pub(super) async fn cp(client: &Client, args: &CpArgs) -> Result<()> {
    let Some((id, folder)) = args.remote.split_once(':').filter(|(id, folder)| !id.is_empty() && !folder.is_empty()) else {
        bail!("`{}` is no place in a sandbox; write it as ID:DIR", args.remote);
    };
    let shown = args.local.display();
    let file = File::open(&args.local).with_context(|| format!("cannot read {shown}"))?;
    let name = args.local.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = name.ok_or_else(|| anyhow!("{shown} has no name"))?;
    let mut random = [0u8; 16];
    getrandom::fill(&mut random).map_err(|error| anyhow!("the kernel's random generator failed: {error}"))?;
    let boundary = format!("boxed-{:032x}", u128::from_be_bytes(random));
    let head = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"path\"\r\n\r\n{folder}\r\n--{boundary}\r\n\
         Content-Disposition: form-data; name=\"file\"; filename=\"{}\"\r\nContent-Type: application/octet-stream\r\n\r\n",
        name.replace('\\', "\\\\").replace('"', "\\\"").replace(['\r', '\n'], "_")
    );
    let tail = format!("\r\n--{boundary}--\r\n");
    let once = |text: String| stream::once(std::future::ready(Ok(Bytes::from(text))));
    let pieces = once(head).chain(content(file)).chain(once(tail));
    let body: Body = StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync();
    let kind = HeaderValue::from_str(&format!("multipart/form-data; boundary={boundary}")).context("a boundary is a header's value")?;
    let _answer: IgnoredAny = client.post(&format!("{}/files", sandbox(id)), kind, body).await?;
    say(&format!("Uploaded to {id}:{folder}"))
}

/// The pieces of a file. It is a local one, so that reading it is no wait.
fn content(mut file: File) -> impl futures::Stream<Item = io::Result<Bytes>> {
    let mut failed = false;
    stream::iter(std::iter::from_fn(move || {
        let mut piece = vec![0; PIECE];
        match file.read(&mut piece) {
            _ if failed => None,
            Ok(0) => None,
            Ok(count) => {
                piece.truncate(count);
                Some(Ok(piece.into()))
            }
            Err(error) => {
                failed = true;
                Some(Err(error))
            }
        }
    }))
}

pub(super) async fn cat(client: &Client, args: &PlaceArgs) -> Result<()> {
    let (id, path) = args.place();
    let path = path.ok_or_else(|| anyhow!("name a file: ID PATH, or ID:PATH"))?;
    let mut body = client.get(&format!("{}/files/content?path={}", sandbox(id), percent(path.as_bytes()))).await?.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| anyhow!("the server's answer broke off: {error}"))?;
        if let Ok(data) = frame.into_data() {
            output::write(Stream::Stdout, data).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_look_as_ls_shows_them() {
        for (bits, shown) in [(16877, "drwxr-xr-x"), (33188, "-rw-r--r--"), (41471, "lrwxrwxrwx"), (0, "----------")] {
            assert_eq!(mode(bits), shown);
        }
    }
}
