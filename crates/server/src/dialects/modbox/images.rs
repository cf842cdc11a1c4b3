//! Images: the default ones of everybody's, and those that a workspace has registered.

use std::num::NonZeroU16;

use axum::{
    Json,
    extract::Path,
    response::{IntoResponse, Response},
};
use caisson_core::{Image as Rootfs, SandboxFilter, Scope, State, Uuid};
use caisson_image::Reference;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::{
    answer::{invalid_field, refusal},
    body::Body,
    check::Problems,
    member::{Member, Role},
    provision::ModboxCache,
    record::{IMAGE_ID, MARK},
    registries::Registry,
    shelf::{self, Kept},
    workspaces::now,
};
use crate::{
    dialects::images::named,
    error::{ApiError, ApiResult},
    native::images::{pull::begin, refusal::refused},
    params::Params,
};

const MEMORY_MB: u64 = 1024;
const LATEST: &str = "latest";
/// Registered images of one workspace.
const MOST: usize = 1000;
/// When the default ones came into being, for clients that sort.
const SINCE: &str = "2026-01-01T00:00:00.000Z";
/// What everybody has: name, description, and whether this server can have it at all.
const DEFAULTS: [(&str, &str); 3] = [
    ("modbox/code-exec", "Python, Node.js, Go and Bash"),
    ("modbox/chromium", "A browser; not available here, as this server has no image of it"),
    ("modbox/ubuntu", "A plain system"),
];

/// A registered image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Image {
    id: String,
    name: String,
    image: String,
    tag: String,
    description: Option<String>,
    enabled: bool,
    is_default: bool,
    memory_mb: u64,
    readiness_port: Option<NonZeroU16>,
    registry_id: Option<String>,
    ttl_seconds: Option<u64>,
    created_at: String,
    updated_at: String,
    /// Absent for the default ones.
    workspace_id: Option<String>,
}

impl Kept for Image {
    const KIND: &str = "modbox.image";

    fn id(&self) -> &str {
        &self.id
    }
}

/// What a sandbox is made of.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) image: Rootfs,
    /// As clients know it.
    pub(super) shown: String,
    pub(super) id: Option<String>,
    pub(super) memory_mb: u64,
    pub(super) readiness_port: Option<NonZeroU16>,
    pub(super) ttl_seconds: Option<u64>,
}

impl Image {
    async fn default(member: &Member, (name, description): (&str, &str)) -> ApiResult<Self> {
        Ok(Self {
            id: Uuid::of_hash(&Sha256::digest(format!("modbox image {name}")).into()).to_string(),
            name: name.to_owned(),
            image: name.to_owned(),
            tag: LATEST.to_owned(),
            description: Some(description.to_owned()),
            enabled: rootfs(member, name).await?.is_some(),
            is_default: true,
            memory_mb: MEMORY_MB,
            readiness_port: None,
            registry_id: None,
            ttl_seconds: None,
            created_at: SINCE.to_owned(),
            updated_at: SINCE.to_owned(),
            workspace_id: None,
        })
    }

    fn reference(&self) -> String {
        format!("{}:{}", self.image, self.tag)
    }

    /// The image from the registry that it is registered with: one that is here, or else what comes by the login there, which is the workspace's own.
    /// As everywhere it takes an admin's key to make the server ask somebody else's host.
    async fn of_registry(&self, member: &Member) -> ApiResult<Option<Rootfs>> {
        let (Some(store), Some(id)) = (&member.view.config.images, &self.registry_id) else { return Ok(None) };
        let Some(registry) = shelf::find::<Registry>(&member.engine, member.owner(), id).await? else { return Ok(None) };
        let Some((host, logins)) = registry.logins(member).await? else { return Ok(None) };
        let Ok(mut name) = self.reference().parse::<Reference>() else { return Ok(None) };
        // Without a host in its name it is one of the registry's.
        if !self.image.starts_with(name.registry())
            && let Ok(whole) = format!("{host}/{}", self.reference()).parse()
        {
            name = whole;
        }
        let store = store.of(member.engine.tenant());
        if !store.has(&name).await.map_err(|error| refused(&error))? {
            if member.view.scope != Scope::Admin {
                return Ok(None);
            }
            begin(member.view.app(), &store, name.clone(), logins).finish().await.map_err(|error| {
                let message = format!("the image `{name}` does not come from the registry `{}`: {error}", registry.name);
                refusal(StatusCode::NOT_FOUND, "image_not_found", message)
            })?;
        }
        Ok(Some(Rootfs::Named { name: name.to_string(), id: None }))
    }

    async fn chosen(self, member: &Member) -> ApiResult<Chosen> {
        let shown = self.reference();
        if !self.enabled {
            let message = format!("the image `{}` is disabled; enable it, or take another", self.name);
            return Err(refusal(StatusCode::BAD_REQUEST, "image_disabled", message));
        }
        let image = match rootfs(member, &shown).await? {
            Some(image) => image,
            None => self.of_registry(member).await?.ok_or_else(|| missing(&shown))?,
        };
        let Self { id, memory_mb, readiness_port, ttl_seconds, .. } = self;
        Ok(Chosen { image, shown, id: Some(id), memory_mb, readiness_port, ttl_seconds })
    }
}

async fn defaults(member: &Member) -> ApiResult<Vec<Image>> {
    let mut images = Vec::with_capacity(DEFAULTS.len());
    for default in DEFAULTS {
        images.push(Image::default(member, default).await?);
    }
    Ok(images)
}

/// What an image is here that others call so, with or without a tag that says nothing.
async fn rootfs(member: &Member, reference: &str) -> ApiResult<Option<Rootfs>> {
    let plain = reference.strip_prefix("docker.io/").unwrap_or(reference);
    for name in [Some(reference), Some(plain), plain.strip_suffix(":latest")].into_iter().flatten() {
        if let Some(image) = named(member.view.app(), &member.engine, name).await? {
            return Ok(Some(image));
        }
    }
    Ok(None)
}

fn missing(reference: &str) -> ApiError {
    let name = reference.strip_suffix(":latest").unwrap_or(reference);
    let message = format!(
        "this server has no image `{reference}`; get it with `caisson image pull {name}`, map it to one that is here with \
         CAISSON_IMAGE_ALIASES={name}=host, or take `modbox/code-exec`"
    );
    refusal(StatusCode::NOT_FOUND, "image_not_found", message)
}

fn unknown(id: &str) -> ApiError {
    refusal(StatusCode::NOT_FOUND, "image_not_found", format!("there is no image `{id}` in this workspace"))
}

/// The image that a new sandbox asks for; without a word the workspace's default one, or else the server's.
pub(super) async fn choose(member: &Member, id: Option<Uuid>, reference: Option<&str>) -> ApiResult<Chosen> {
    match (id, reference) {
        (Some(id), _) => find(member, &id.to_string()).await?.chosen(member).await,
        (None, Some(reference)) => {
            let image = rootfs(member, reference).await?.ok_or_else(|| missing(reference))?;
            Ok(Chosen { image, shown: reference.to_owned(), id: None, memory_mb: MEMORY_MB, readiness_port: None, ttl_seconds: None })
        }
        (None, None) => {
            let own = shelf::all::<Image>(&member.engine, member.owner()).await?;
            let own = own.into_iter().filter(|image| image.is_default && image.enabled);
            match own.max_by(|a, b| a.updated_at.cmp(&b.updated_at)) {
                Some(image) => image.chosen(member).await,
                None => Image::default(member, DEFAULTS[0]).await?.chosen(member).await,
            }
        }
    }
}

async fn find(member: &Member, id: &str) -> ApiResult<Image> {
    let Ok(uuid) = id.parse::<Uuid>() else { return Err(unknown(id)) };
    let uuid = uuid.to_string();
    if let Some(default) = defaults(member).await?.into_iter().find(|image| image.id == uuid) {
        return Ok(default);
    }
    shelf::find(&member.engine, member.owner(), &uuid).await?.ok_or_else(|| unknown(id))
}

/// One that the workspace may change.
async fn own(member: &Member, id: &str) -> ApiResult<Image> {
    member.at_least(Role::Admin)?;
    let image = find(member, id).await?;
    if image.workspace_id.is_none() {
        let message = "the default images are everybody's; register one of your own";
        return Err(refusal(StatusCode::FORBIDDEN, "image_immutable", message));
    }
    Ok(image)
}

/// What an image is to be; what is absent stays as it is, or is what it is by default.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct ModboxImageBody {
    /// 1 to 255 characters
    name: Option<String>,
    /// 1 to 512 characters, without a tag
    image: Option<String>,
    /// `latest` when absent
    tag: Option<String>,
    description: Option<String>,
    enabled: Option<bool>,
    /// Whether sandboxes are of it that ask for none
    is_default: Option<bool>,
    /// 256 to 8192, 1024 when absent
    memory_mb: Option<i64>,
    /// A sandbox is ready when `GET /` on this port is answered with 2xx; at once when absent
    readiness_port: Option<i64>,
    registry_id: Option<String>,
    /// Seconds to live for sandboxes that say nothing of it: 60 to 86400
    ttl_seconds: Option<i64>,
}

/// An image.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModboxImage {
    id: String,
    name: String,
    image: String,
    tag: String,
    description: Option<String>,
    enabled: bool,
    is_default: bool,
    memory_mb: u64,
    #[schema(value_type = Option<u16>)]
    readiness_port: Option<NonZeroU16>,
    registry_id: Option<String>,
    registry_name: Option<String>,
    ttl_seconds: Option<u64>,
    created_at: String,
    updated_at: String,
    /// Null for the default ones, which are everybody's
    workspace_id: Option<String>,
    cache_status: Option<String>,
    cache_updated_at: Option<String>,
}

/// All of them.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModboxImages {
    images: Vec<ModboxImage>,
    total: usize,
}

/// What was cleared.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModboxCleared {
    success: bool,
    status: &'static str,
    message: Option<&'static str>,
}

impl ModboxImage {
    async fn new(member: &Member, image: Image) -> ApiResult<Self> {
        let registry = match &image.registry_id {
            Some(id) => shelf::find::<Registry>(&member.engine, member.owner(), id).await?,
            None => None,
        };
        let registry_name = registry.map(|registry| registry.name);
        Ok(Self {
            id: image.id,
            name: image.name,
            image: image.image,
            tag: image.tag,
            description: image.description,
            enabled: image.enabled,
            is_default: image.is_default,
            memory_mb: image.memory_mb,
            readiness_port: image.readiness_port,
            registry_id: image.registry_id,
            registry_name,
            ttl_seconds: image.ttl_seconds,
            created_at: image.created_at,
            updated_at: image.updated_at,
            workspace_id: image.workspace_id,
            cache_status: None,
            cache_updated_at: None,
        })
    }
}

impl ModboxImageBody {
    fn check(&self) -> ApiResult<()> {
        let mut problems = Problems::default();
        problems.text("name", self.name.as_deref(), 1..=255);
        problems.text("image", self.image.as_deref(), 1..=512);
        // A colon may also stand before a registry's port.
        if self.image.as_deref().is_some_and(|image| image.rsplit('/').next().is_some_and(|last| last.contains([':', '@']))) {
            problems.add("image", "has a tag or a digest; the tag has a field of its own");
        }
        problems.text("tag", self.tag.as_deref(), 1..=128);
        problems.text("description", self.description.as_deref(), 0..=1000);
        problems.within("memory_mb", self.memory_mb, 256..=8192);
        problems.within("readiness_port", self.readiness_port, 1..=65_535);
        problems.uuid("registry_id", self.registry_id.as_deref());
        problems.within("ttl_seconds", self.ttl_seconds, 60..=86_400);
        problems.done()
    }

    /// What is said, over what was.
    fn over(self, image: Image) -> Image {
        let figure = |figure: Option<i64>| figure.and_then(|figure| u64::try_from(figure).ok());
        let port = self.readiness_port.and_then(|port| u16::try_from(port).ok()).and_then(NonZeroU16::new);
        Image {
            name: self.name.unwrap_or(image.name),
            image: self.image.unwrap_or(image.image),
            tag: self.tag.unwrap_or(image.tag),
            description: self.description.or(image.description),
            enabled: self.enabled.unwrap_or(image.enabled),
            is_default: self.is_default.unwrap_or(image.is_default),
            memory_mb: figure(self.memory_mb).unwrap_or(image.memory_mb),
            readiness_port: port.or(image.readiness_port),
            registry_id: self.registry_id.map(|id| id.to_lowercase()).or(image.registry_id),
            ttl_seconds: figure(self.ttl_seconds).or(image.ttl_seconds),
            ..image
        }
    }
}

/// Whether its registry is one of the workspace's.
async fn check_registry(member: &Member, image: &Image) -> ApiResult<()> {
    match &image.registry_id {
        Some(id) if shelf::find::<Registry>(&member.engine, member.owner(), id).await?.is_none() => {
            Err(refusal(StatusCode::NOT_FOUND, "registry_not_found", format!("there is no registry `{id}` in this workspace")))
        }
        _ => Ok(()),
    }
}

/// Lists the default images and the workspace's own.
#[utoipa::path(get, path = "/sandbox-images", operation_id = "modbox_list_images", tag = "modbox",
    params(("enabled_only" = Option<bool>, Query, description = "Leaves disabled ones out")),
    responses((status = 200, description = "All of them", body = ModboxImages)))]
pub(crate) async fn list(member: Member, mut params: Params) -> ApiResult<Json<ModboxImages>> {
    let enabled_only = match params.text("enabled_only")?.unwrap_or_default().to_ascii_lowercase().as_str() {
        "" | "false" | "0" => false,
        "true" | "1" => true,
        _ => return Err(invalid_field("query.enabled_only", "is neither true nor false")),
    };
    let own = shelf::all::<Image>(&member.engine, member.owner()).await?;
    let mut images = Vec::new();
    for image in defaults(&member).await?.into_iter().chain(own).filter(|image| image.enabled || !enabled_only) {
        images.push(ModboxImage::new(&member, image).await?);
    }
    let total = images.len();
    Ok(Json(ModboxImages { images, total }))
}

/// Registers an image.
#[utoipa::path(post, path = "/sandbox-images", operation_id = "modbox_create_image", tag = "modbox", request_body = ModboxImageBody,
    responses((status = 201, description = "The image", body = ModboxImage)))]
pub(crate) async fn create(member: Member, Body(body): Body<ModboxImageBody>) -> ApiResult<Response> {
    let mut problems = Problems::default();
    let (name, image) =
        (problems.required("name", body.name.clone(), 0..=usize::MAX), problems.required("image", body.image.clone(), 0..=usize::MAX));
    problems.done()?;
    body.check()?;
    member.at_least(Role::Admin)?;
    let at = now();
    let plain = Image {
        id: Uuid::random().to_string(),
        name,
        image,
        tag: LATEST.to_owned(),
        description: None,
        enabled: true,
        is_default: false,
        memory_mb: MEMORY_MB,
        readiness_port: None,
        registry_id: None,
        ttl_seconds: None,
        created_at: at.clone(),
        updated_at: at,
        workspace_id: Some(member.workspace.id.clone()),
    };
    let made = body.over(plain);
    check_registry(&member, &made).await?;
    if shelf::all::<Image>(&member.engine, member.owner()).await?.len() >= MOST {
        let message = format!("a workspace may have {MOST} images; delete some that are not used any more");
        return Err(refusal(StatusCode::CONFLICT, "conflict", message));
    }
    shelf::add(&member.engine, member.owner(), &made).await?;
    Ok((StatusCode::CREATED, Json(ModboxImage::new(&member, made).await?)).into_response())
}

/// An image.
#[utoipa::path(get, path = "/sandbox-images/{id}", operation_id = "modbox_get_image", tag = "modbox", params(("id" = String, Path)),
    responses((status = 200, description = "The image", body = ModboxImage)))]
pub(crate) async fn get(member: Member, Path(id): Path<String>) -> ApiResult<Json<ModboxImage>> {
    let image = find(&member, &id).await?;
    Ok(Json(ModboxImage::new(&member, image).await?))
}

/// Changes what is said. Sandboxes that are there go on as they are.
#[utoipa::path(put, path = "/sandbox-images/{id}", operation_id = "modbox_update_image", tag = "modbox", params(("id" = String, Path)),
    request_body = ModboxImageBody, responses((status = 200, description = "The image", body = ModboxImage)))]
pub(crate) async fn update(member: Member, Path(id): Path<String>, Body(body): Body<ModboxImageBody>) -> ApiResult<Json<ModboxImage>> {
    body.check()?;
    let image = own(&member, &id).await?;
    let changed = Image { updated_at: now(), ..body.over(image) };
    check_registry(&member, &changed).await?;
    if !shelf::put(&member.engine, member.owner(), &changed).await? {
        return Err(unknown(&id));
    }
    Ok(Json(ModboxImage::new(&member, changed).await?))
}

/// Removes an image. Sandboxes of it go on.
#[utoipa::path(delete, path = "/sandbox-images/{id}", operation_id = "modbox_delete_image", tag = "modbox", params(("id" = String, Path)),
    responses((status = 204, description = "It is gone")))]
pub(crate) async fn delete(member: Member, Path(id): Path<String>) -> ApiResult<StatusCode> {
    let image = own(&member, &id).await?;
    shelf::remove::<Image>(&member.engine, member.owner(), &image.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What is prepared of an image: nothing, as nothing has to be.
#[utoipa::path(get, path = "/sandbox-images/{id}/cache", operation_id = "modbox_get_image_cache", tag = "modbox", params(("id" = String, Path)),
    responses((status = 200, description = "What there is", body = ModboxCache)))]
pub(crate) async fn cache(member: Member, Path(id): Path<String>) -> ApiResult<Json<ModboxCache>> {
    find(&member, &id).await?;
    Ok(Json(ModboxCache { requested: false, status: None }))
}

/// Removes what is prepared of an image, unless sandboxes of it live.
#[utoipa::path(delete, path = "/sandbox-images/{id}/cache", operation_id = "modbox_clear_image_cache", tag = "modbox",
    params(("id" = String, Path)), responses((status = 200, description = "There is none", body = ModboxCleared)))]
pub(crate) async fn clear_cache(member: Member, Path(id): Path<String>) -> ApiResult<Json<ModboxCleared>> {
    member.at_least(Role::Admin)?;
    let image = find(&member, &id).await?;
    let filter = SandboxFilter {
        states: State::ALL.into_iter().filter(|state| *state != State::Ended).collect(),
        metadata: vec![(MARK.0.to_owned(), MARK.1.to_owned()), (IMAGE_ID.to_owned(), image.id.clone())],
        limit: 1,
        ..SandboxFilter::default()
    };
    if !member.engine.sandboxes(&filter).await?.data.is_empty() {
        let message = format!("sandboxes of the image `{}` live; destroy them first", image.name);
        return Err(refusal(StatusCode::CONFLICT, "image_cache_in_use", message));
    }
    Ok(Json(ModboxCleared { success: true, status: "empty", message: Some("this server keeps nothing of an image but the image") }))
}
