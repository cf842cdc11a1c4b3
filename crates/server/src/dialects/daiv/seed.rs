//! What a session begins with, once.

use std::{
    fs::File,
    io::{self, Read},
    sync::Arc,
};

use axum::{extract::Request, response::Response};
use bytes::Bytes;
use caisson_core::{Error, Tenant};
use caisson_engine::ByteStream;
use http::{HeaderMap, StatusCode};
use serde_json::json;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use utoipa::ToSchema;

use super::{
    answer::{bad_request, done, faulty, no_session, refusal, unprocessable},
    archive::{MOST_TIME, Most, PIECE, Refused},
    files::no_link,
    record::{Named, Record, Session},
    settings::DaivSettings,
    spool::{self, NotSpooled, Spooled},
};
use crate::{
    caller::Caller,
    dialects::multipart::Multipart,
    error::{ApiError, ApiResult},
    native::files::content,
};

/// Parts of the form, in the order in which they are unpacked.
const PARTS: [&str; 2] = ["repo_archive", "skills_archive"];
/// Pieces on their way to the sandbox.
const PIECES: usize = 4;
/// Text in the place of a file is told back, and that much of it.
const LONGEST_TEXT: usize = 64 << 10;

/// The form of a seed. One of both is needed.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "it is read part by part")]
pub(crate) struct DaivSeed {
    /// A tar archive, plain or compressed by gzip, bzip2, xz or Zstandard, for `/repo`
    #[schema(value_type = Option<String>, format = Binary)]
    repo_archive: Option<Vec<u8>>,
    /// The same for `/skills`
    #[schema(value_type = Option<String>, format = Binary)]
    skills_archive: Option<Vec<u8>>,
}

/// Unpacks what a session begins with, once in its life.
///
/// One archive is checked whole before anything of it is written. An absolute name or one with `..` refuses it; what is neither a file, a folder nor
/// a link within the archive is left out.
#[utoipa::path(post, path = "/session/{id}/seed", operation_id = "daiv_seed", tag = "daiv", params(("id" = String, Path)),
    request_body(content = DaivSeed, content_type = "multipart/form-data"),
    responses((status = 204, description = "It is there")))]
pub(crate) async fn seed(Caller(app): Caller, named: Named, headers: HeaderMap, request: Request) -> ApiResult<Response> {
    let settings = &app.config.daiv;
    // Nothing is kept for a session that is not there. What is wrong with the form is told first all the same.
    let room = named.room(&app.engine).await;
    let body = content(request.into_body(), app.config.body_stall);
    let archives = match Multipart::new(&headers, body) {
        Some(form) => match timeout(MOST_TIME, parts(form, settings, room.map(|most| (app.engine.tenant(), most)))).await {
            Ok(archives) => archives?,
            Err(_) => {
                let message = format!("the form did not come within {} s; send smaller archives", MOST_TIME.as_secs());
                return Err(refusal(StatusCode::REQUEST_TIMEOUT, message));
            }
        },
        None => [None, None],
    };
    if archives.iter().all(Option::is_none) {
        return Err(unprocessable("At least one of repo_archive or skills_archive must be provided"));
    }
    let session = named.open(&app).await?;
    if room.is_none() {
        return Err(no_session());
    }
    if session.record.seeded {
        return Err(refusal(StatusCode::CONFLICT, "Session already seeded"));
    }
    session.work(&app, |session| async move { take(&session, archives).await }).await?;
    Ok(done())
}

async fn take(session: &Arc<Session>, archives: [Option<Spooled>; 2]) -> ApiResult<()> {
    let layout = session.layout();
    for ((name, target), archive) in PARTS.into_iter().zip([layout.repo(), layout.skills()]).zip(archives) {
        let (file, _room) = match archive {
            None => continue,
            Some(Spooled::Whole(file, room)) => (file, room),
            Some(Spooled::Refused(Refused(why))) => return Err(invalid(name, &why)),
            Some(Spooled::TooLarge(most)) => {
                let why = format!("it has more bytes than the session has room for, which is {most}");
                return Err(invalid(name, &format!("Invalid or truncated archive: {why}")));
            }
        };
        unpack(session, name, target, file).await?;
    }
    let mut record = session.record.clone();
    if record.wants_patches() {
        begin(session, &mut record).await?;
    }
    record.seeded = true;
    session.keep(&record).await
}

/// What patches begin from.
async fn begin(session: &Session, record: &mut Record) -> ApiResult<()> {
    if let Err(error) = super::patch::advance(session).await {
        return Err(super::patch::failed(session, error, "Failed to initialise patch-extractor meta repo. Check logs.").await);
    }
    record.base_of = session.with_base().base_of;
    Ok(())
}

fn invalid(name: &str, why: &str) -> ApiError {
    unprocessable(format!("{name} is invalid: {why}"))
}

async fn unpack(session: &Session, name: &str, target: &str, file: File) -> ApiResult<()> {
    if let Err(error) = no_link(&session.engine, session.id, target).await {
        return Err(match error {
            Error::Conflict { code: "not_a_directory", .. } => invalid(name, &error.to_string()),
            error => session.failed(error).await,
        });
    }
    let (pieces, receiver) = mpsc::channel(PIECES);
    let archive: ByteStream = Box::pin(ReceiverStream::new(receiver));
    tokio::task::spawn_blocking(move || send(file, &pieces));
    let unpacked = session.engine.unpack_files(session.id, target.as_bytes(), false, archive).await;
    match unpacked {
        Ok(_) => Ok(()),
        // What is there already, or how much room there is.
        Err(error @ (Error::Invalid { .. } | Error::QuotaExceeded { .. } | Error::TooLarge { .. })) => {
            Err(invalid(name, &error.to_string()))
        }
        Err(error @ Error::Conflict { code: "not_a_directory" | "is_a_directory" | "directory_not_empty" | "not_a_file", .. }) => {
            Err(invalid(name, &error.to_string()))
        }
        Err(error) => Err(session.failed(error).await),
    }
}

fn send(mut file: File, pieces: &mpsc::Sender<io::Result<Bytes>>) {
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        let read = file.by_ref().take(PIECE as u64).read_to_end(&mut piece);
        let is_last = !matches!(read, Ok(1..));
        if !matches!(read, Ok(0)) && pieces.blocking_send(read.map(|_| piece.into())).is_err() || is_last {
            // Whoever does not listen any more has said why.
            return;
        }
    }
}

/// Takes the form apart; archives are on the disk then, if it is known whose they are. Of those that come twice, the last counts.
async fn parts(mut form: Multipart, settings: &DaivSettings, room: Option<(&Tenant, Most)>) -> ApiResult<[Option<Spooled>; 2]> {
    let mut archives = [None, None];
    let mut texts: [Option<String>; 2] = [None, None];
    while let Some(head) = form.next().await.map_err(cut)? {
        let Some(index) = PARTS.iter().position(|part| *part == head.name) else { continue };
        if head.file_name.is_some() {
            // The one before it goes first.
            archives[index] = None;
            let spooled = match room {
                Some((tenant, most)) => spool::part(&mut form, settings.spool.clone(), tenant, settings.limits.disk_bytes, most).await,
                None => spool::pass_over(&mut form).await.map(|()| Spooled::TooLarge(0)).map_err(NotSpooled::Cut),
            };
            archives[index] = Some(spooled.map_err(|error| match error {
                NotSpooled::Cut(error) => cut(error),
                NotSpooled::Full => {
                    let message = "the archives that are on their way take all the room that there is for them; try again in a moment";
                    refusal(StatusCode::SERVICE_UNAVAILABLE, message)
                }
                NotSpooled::Disk(error) => {
                    tracing::error!("An archive cannot be kept in {}: {error}", settings.spool.display());
                    ApiError::internal()
                }
            })?);
            texts[index] = None;
        } else {
            let mut text = Vec::new();
            while let Some(piece) = form.data().await.map_err(cut)? {
                let room = LONGEST_TEXT - text.len();
                text.extend_from_slice(&piece[..piece.len().min(room)]);
            }
            texts[index] = Some(String::from_utf8_lossy(&text).into_owned());
            archives[index] = None;
        }
    }
    form.rest().await.map_err(cut)?;
    let faults: Vec<_> = PARTS
        .iter()
        .zip(texts)
        .filter_map(|(name, text)| {
            let message = "Value error, Expected UploadFile, received: <class 'str'>";
            let mut fault = super::check::fault("value_error", json!(["body", name]), message, text?.into());
            fault["ctx"] = json!({"error": {}});
            Some(fault)
        })
        .collect();
    if faults.is_empty() { Ok(archives) } else { Err(faulty(faults)) }
}

fn cut(error: io::Error) -> ApiError {
    tracing::debug!("A form cannot be read: {error}");
    bad_request("There was an error parsing the body")
}
