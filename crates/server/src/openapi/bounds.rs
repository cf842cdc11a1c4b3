//! What requests are held to, told from the constants and lists that hold them: a figure stands in one place.

use caisson_core::{
    BlobKey, ContextId, EgressLimits, EventKind, ExecutionId, ExecutionStatus, Image, KeyId, Limits, Quotas, SandboxId, Scope, State,
    Storage, Stream, Tenant, TimeLimits, UserSpec, WebhookId,
};
use caisson_engine::{
    Driver, GrepRequest, WindowSize,
    bounds::{
        HOSTNAME_LENGTH, METADATA_PAIRS, NAME_LENGTH, NOTE_LENGTH, PATH_BYTES, RESERVED_ENV, SETUP_STEP_WITHIN, SETUP_STEPS, URL_BYTES,
    },
};
use serde_json::{Value, json};
use utoipa::{
    Number,
    openapi::{
        Array, Object, OneOfBuilder, OpenApi, RefOr, Schema,
        path::Parameter,
        schema::{AdditionalProperties, ArrayItems, SchemaType, Type},
    },
};

use crate::native::{
    archive::Format,
    files::{MAX_DEPTH, MAX_ENTRIES},
    sandboxes::MAX_PAGE,
    types::{
        DEFAULT_FILE_BYTES, DEFAULT_LINK, DEFAULT_TIMEOUT, LONGEST_LINK, MAX_FILE_BYTES, MAX_OUTPUT_BYTES, MIN_OUTPUT_BYTES, MOST_WARM,
        Mode, Number as Figure, Policy, SHORTEST_LINK, SHORTEST_TIME, SignalName, TerminalBody,
    },
};
use crate::{dialects, templates::TemplateName};

/// What bodies that ask for something have in common.
const REQUESTS: [&str; 5] = ["CreateContext", "CreateSandbox", "ExecRequest", "Recipe", "RunRequest"];

/// A letter or digit, then those of `more` as well.
fn begins_plainly(more: &str) -> String {
    format!("^[A-Za-z0-9][A-Za-z0-9{more}]*$")
}

/// Text without NUL.
const NO_NUL: &str = "^[^\\u0000]*$";
/// A path from the root, that does not lead up.
const ABSOLUTE: &str = "^(?!.*/\\.\\.(/|$))/[^\\u0000]*$";
/// Parts with slashes between them, none empty, `.` or `..`, without control characters.
const KEY: &str = "^(?!(.*/)?\\.{0,2}(/|$))[^\\u0000-\\u001f\\u007f-\\u009f]*$";
/// The same without parts.
const WORKSPACE: &str = "^(?!\\.{1,2}$)[^\\u0000-\\u001f\\u007f-\\u009f]*$";
/// `chmod`'s octal digits for 0 to 0777.
const MODE: &str = "^(0o)?0*[0-7]{1,3}$";
/// Addresses of receivers.
const URL: &str = "^[Hh][Tt][Tt][Pp][Ss]?://[^/@#\\s\\\\][^@#\\s\\\\]*$";
/// The number of an event, as text.
const NUMBER: &str = "^[0-9]{1,19}$";
/// RFC 4648 §4, with padding and without stray bits.
const BASE64: &str = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$";

/// Adds it to the document.
pub(super) fn tell(document: &mut OpenApi) {
    figures(document);
    texts(document);
    choices(document);
    labels_and_variables(document);
    tenants(document);
    webhooks(document);
    parameters(document);
}

fn figures(document: &mut OpenApi) {
    let (low, high, default) = (Limits::MIN, Limits::MAX, Limits::default());
    let mut limit =
        |field: &str, low: Number, high: Number, default: Value| within(property(document, "Limits", field), low, high, default);
    limit("memory_bytes", low.memory_bytes.into(), high.memory_bytes.into(), default.memory_bytes.into());
    let cpus = |limits: Limits| f64::from(limits.cpu_millis) / 1000.0;
    limit("cpus", cpus(low).into(), cpus(high).into(), json!(Figure(cpus(default))));
    limit("pids", low.pids.into(), high.pids.into(), default.pids.into());
    limit("disk_bytes", low.disk_bytes.into(), high.disk_bytes.into(), default.disk_bytes.into());
    limit("disk_inodes", low.disk_inodes.into(), high.disk_inodes.into(), default.disk_inodes.into());
    limit("open_files", low.open_files.into(), high.open_files.into(), default.open_files.into());

    let times = TimeLimits::default();
    let seconds = |limit: Option<std::time::Duration>| limit.map_or(Value::Null, |limit| json!(Figure::from(limit)));
    for (schema, field, default) in [
        ("CreateSandbox", "lifetime_s", Some(seconds(times.lifetime))),
        ("CreateSandbox", "idle_timeout_s", Some(seconds(times.idle_timeout))),
        // What is absent stays as it is, which is no value.
        ("UpdateSandbox", "lifetime_s", None),
        ("UpdateSandbox", "idle_timeout_s", None),
        // Likewise: what a template does not say is the default of what is made from it.
        ("Recipe", "lifetime_s", None),
        ("Recipe", "idle_timeout_s", None),
        ("Recipe", "timeout_s", None),
        ("CodeRequest", "timeout_s", Some(seconds(Some(DEFAULT_TIMEOUT)))),
        ("ExecRequest", "timeout_s", Some(seconds(Some(DEFAULT_TIMEOUT)))),
        ("RunRequest", "timeout_s", Some(seconds(Some(DEFAULT_TIMEOUT)))),
    ] {
        let field = property(document, schema, field);
        within(field, SHORTEST_TIME.as_secs_f64().into(), TimeLimits::MAX.as_secs_f64().into(), Value::Null);
        field.default = default;
    }
    for schema in ["ExecRequest", "RunRequest"] {
        within(property(document, schema, "max_output_bytes"), MIN_OUTPUT_BYTES.into(), MAX_OUTPUT_BYTES.into(), Value::Null);
    }
    within(property(document, "Recipe", "max_warm"), 0u32.into(), MOST_WARM.into(), Value::Null);
    let step = property(document, "SetupStep", "timeout_s");
    within(step, SHORTEST_TIME.as_secs_f64().into(), SETUP_STEP_WITHIN.as_secs_f64().into(), Value::Null);
    let (low, high) = WindowSize::RANGE;
    for (schema, default) in [("Terminal", Some(TerminalBody::default())), ("ResizeRequest", None)] {
        let default = default.map(|size| (json!(size.cols), json!(size.rows))).unwrap_or_default();
        within(property(document, schema, "cols"), low.into(), high.into(), default.0);
        within(property(document, schema, "rows"), low.into(), high.into(), default.1);
    }
    within(property(document, "LinkRequest", "port"), 1u32.into(), u16::MAX.into(), Value::Null);
    for schema in ["LinkRequest", "WorkspaceLinkRequest"] {
        let field = property(document, schema, "expires_in_s");
        within(field, SHORTEST_LINK.into(), LONGEST_LINK.into(), json!(Figure::from(DEFAULT_LINK)));
    }
    let field = property(document, "RunRequest", "max_file_bytes");
    within(field, 0u64.into(), MAX_FILE_BYTES.into(), DEFAULT_FILE_BYTES.into());
}

fn texts(document: &mut OpenApi) {
    matching(property(document, "CreateSandbox", "name"), 1, NAME_LENGTH, &begins_plainly("._-"));
    matching(property(document, "CreateSandbox", "hostname"), 1, HOSTNAME_LENGTH, &begins_plainly(".-"));
    matching(property(document, "Recipe", "hostname"), 1, HOSTNAME_LENGTH, &begins_plainly(".-"));
    matching(property(document, "Recipe", "work_dir"), 1, PATH_BYTES, ABSOLUTE);
    let description = property(document, "Recipe", "description");
    (description.max_length, description.pattern) = (Some(NOTE_LENGTH), Some(NO_NUL.to_owned()));
    match schema_of(document, "Recipe").properties.get_mut("setup") {
        Some(RefOr::T(Schema::Array(setup))) => setup.max_items = Some(SETUP_STEPS),
        _ => panic!("`setup` of `Recipe` is no list"),
    }
    match schema_of(document, "SyncRequest").properties.get_mut("files") {
        Some(RefOr::T(Schema::Array(files))) => files.min_items = Some(1),
        _ => panic!("`files` of `SyncRequest` is no list"),
    }
    matching(property(document, "InputFile", "path"), 1, PATH_BYTES, NO_NUL);
    property(document, "InputFile", "content_base64").pattern = Some(BASE64.to_owned());
    matching(property(document, "CreateContext", "cwd"), 1, PATH_BYTES, NO_NUL);
    property(document, "CodeRequest", "code").pattern = Some(NO_NUL.to_owned());
    for schema in ["ExecRequest", "RunRequest"] {
        matching(property(document, schema, "cwd"), 1, PATH_BYTES, NO_NUL);
        property(document, schema, "stdin_base64").pattern = Some(BASE64.to_owned());
        property(document, schema, "shell").min_length = Some(1);
        match schema_of(document, schema).properties.get_mut("cmd") {
            Some(RefOr::T(Schema::Array(cmd))) => cmd.min_items = Some(1),
            _ => panic!("`cmd` of `{schema}` is no list"),
        }
    }
}

fn choices(document: &mut OpenApi) {
    for schema in ["CreateSandbox", "RunRequest"] {
        property(document, schema, "template").pattern = Some(TemplateName::PATTERN.to_owned());
        one_of(property(document, schema, "pull"), &Policy::ALL.map(Policy::as_str));
    }
    for schema in ["CreateSandbox", "Recipe", "RunRequest"] {
        property(document, schema, "image").pattern = Some(format!("^[!-~]{{1,{}}}$", Image::NAME_LENGTH));
        one_of(property(document, schema, "storage"), &[Storage::Memory.as_str(), Storage::Disk.as_str()]);
        one_of(property(document, schema, "user"), &[&UserSpec::default().name, &UserSpec::root().name]);
    }
    match document.components.as_mut().and_then(|components| components.schemas.get_mut("Network")) {
        Some(RefOr::T(Schema::OneOf(network))) => match &mut network.items[..] {
            [RefOr::T(Schema::Object(name)), _] => one_of(name, &["none", "public", "packages"]),
            _ => panic!("`Network` is no name and no rules"),
        },
        _ => panic!("the document has no choice `Network`"),
    }
    one_of(property(document, "NetworkRules", "intercept"), &["needed", "all"]);
    let most = EgressLimits::MAX;
    within(property(document, "EgressLimits", "max_bytes"), 1u32.into(), most.into(), Value::Null);
    within(property(document, "EgressLimits", "bytes_per_second"), EgressLimits::SLOWEST.into(), most.into(), Value::Null);
    one_of(property(document, "CreateContext", "driver"), &Driver::ALL.map(Driver::as_str));
    let mut by_name = Object::with_type(Type::String);
    by_name.enum_values = Some(SignalName::all().map(Value::from).collect());
    let mut by_number = Object::with_type(Type::Integer);
    within(&mut by_number, 1u32.into(), SignalName::MAX.into(), Value::Null);
    let signal = OneOfBuilder::new().item(by_name).item(by_number).examples([json!("SIGTERM"), json!(15)]);
    schema_of(document, "SignalRequest").properties.insert("signal".to_owned(), signal.into());

    let mut in_octal = Object::with_type(SchemaType::from_iter([Type::String, Type::Null]));
    in_octal.pattern = Some(MODE.to_owned());
    let mut as_number = Object::with_type(Type::Integer);
    within(&mut as_number, 0u32.into(), Mode::MAX.into(), Value::Null);
    let description = property(document, "InputFile", "mode").description.take();
    let mode = OneOfBuilder::new().item(in_octal).item(as_number).description(description).examples([json!("0644"), json!(0o644)]);
    schema_of(document, "InputFile").properties.insert("mode".to_owned(), mode.into());
}

fn labels_and_variables(document: &mut OpenApi) {
    let text = |pattern: &str| {
        let mut text = Object::with_type(Type::String);
        text.pattern = Some(pattern.to_owned());
        text
    };
    let map = |field: &mut Object, names: &str| {
        field.property_names = Some(Box::new(Schema::Object(text(names))));
        field.additional_properties = Some(Box::new(AdditionalProperties::RefOr(text(NO_NUL).into())));
    };
    for schema in REQUESTS {
        map(property(document, schema, "env"), &format!("^(?!{RESERVED_ENV})[^=\\u0000]+$"));
    }
    for schema in ["CreateSandbox", "Recipe", "RunRequest", "UpdateSandbox"] {
        let field = property(document, schema, "metadata");
        map(field, "^[^\\u0000]+$");
        field.max_properties = Some(METADATA_PAIRS);
    }
}

fn tenants(document: &mut OpenApi) {
    matching(property(document, "CreateKey", "tenant"), 1, Tenant::MAX_LENGTH, Tenant::PATTERN);
    one_of(property(document, "CreateKey", "scope"), &Scope::ALL.map(Scope::as_str));
    let expiry = property(document, "CreateKey", "expires_in_s");
    within(expiry, SHORTEST_TIME.as_secs_f64().into(), TimeLimits::MAX.as_secs_f64().into(), Value::Null);
    let note = property(document, "CreateKey", "note");
    (note.max_length, note.pattern) = (Some(NOTE_LENGTH), Some(NO_NUL.to_owned()));
    for quota in ["sandboxes", "executions_per_minute", "memory_bytes", "disk_bytes", "workspace_bytes"] {
        within(property(document, "UpdateQuotas", quota), 0u64.into(), Quotas::MAX.into(), Value::Null);
    }
}

fn webhooks(document: &mut OpenApi) {
    let url = property(document, "CreateWebhook", "url");
    (url.max_length, url.pattern) = (Some(URL_BYTES), Some(URL.to_owned()));
    matching(property(document, "CreateWebhook", "tenant"), 1, Tenant::MAX_LENGTH, Tenant::PATTERN);
    let description = property(document, "CreateWebhook", "description");
    (description.max_length, description.pattern) = (Some(NOTE_LENGTH), Some(NO_NUL.to_owned()));
    match schema_of(document, "CreateWebhook").properties.get_mut("types") {
        Some(RefOr::T(Schema::Array(types))) => one_of(item_of_array(types), &EventKind::ALL.map(EventKind::as_str)),
        _ => panic!("`types` of `CreateWebhook` is no list"),
    }
}

fn parameters(document: &mut OpenApi) {
    // What dialects ask for is said beside their handlers.
    for (path, item) in document.paths.paths.iter_mut().filter(|(path, _)| dialects::of(path).is_none()) {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch];
        for parameter in operations.into_iter().flatten().flat_map(|operation| operation.parameters.iter_mut().flatten()) {
            let RefOr::T(parameter) = parameter else { continue };
            let name = parameter.name.clone();
            match (name.as_str(), path.as_str()) {
                ("id", path) if path.starts_with("/v1/sandboxes/") => {
                    figure_or_text(parameter).pattern = Some(SandboxId::PATTERN.to_owned())
                }
                ("id", path) if path.starts_with("/v1/keys/") => figure_or_text(parameter).pattern = Some(KeyId::PATTERN.to_owned()),
                ("id", path) if path.starts_with("/v1/webhooks/") => {
                    figure_or_text(parameter).pattern = Some(WebhookId::PATTERN.to_owned())
                }
                ("id", path) if path.starts_with("/v1/tenants/") => {
                    matching(figure_or_text(parameter), 1, Tenant::MAX_LENGTH, Tenant::PATTERN)
                }
                ("id", path) if path.starts_with("/v1/templates/") => {
                    matching(figure_or_text(parameter), 1, TemplateName::MAX_LENGTH, TemplateName::PATTERN)
                }
                ("tenant", _) => matching(figure_or_text(parameter), 1, Tenant::MAX_LENGTH, Tenant::PATTERN),
                ("type", "/v1/events") => one_of(item_of(parameter), &EventKind::ALL.map(EventKind::as_str)),
                ("cursor" | "last-event-id", "/v1/events") => figure_or_text(parameter).pattern = Some(NUMBER.to_owned()),
                ("sandbox_id", _) => figure_or_text(parameter).pattern = Some(SandboxId::PATTERN.to_owned()),
                ("status", _) => one_of(item_of(parameter), &ExecutionStatus::ALL.map(ExecutionStatus::as_str)),
                ("context_id", _) => figure_or_text(parameter).pattern = Some(ContextId::PATTERN.to_owned()),
                ("id", _) => figure_or_text(parameter).pattern = Some(ExecutionId::PATTERN.to_owned()),
                ("path", path) if path.starts_with("/v1/workspaces/") || path.starts_with("/v1/shared/") => {
                    matching(figure_or_text(parameter), 1, BlobKey::MAX_BYTES, KEY);
                }
                ("name", path) if path.starts_with("/v1/workspaces/") || path.starts_with("/v1/shared/") => {
                    matching(figure_or_text(parameter), 1, BlobKey::MAX_COMPONENT_BYTES, WORKSPACE);
                }
                ("path" | "from" | "to", _) => matching(figure_or_text(parameter), 1, PATH_BYTES, NO_NUL),
                ("mode", _) => figure_or_text(parameter).pattern = Some(MODE.to_owned()),
                ("depth", _) => within(figure_or_text(parameter), 1u32.into(), MAX_DEPTH.into(), Value::Null),
                ("port", _) => within(figure_or_text(parameter), 1u32.into(), u16::MAX.into(), Value::Null),
                ("pattern", _) => figure_or_text(parameter).min_length = Some(1),
                ("format", _) => one_of(figure_or_text(parameter), &Format::ALL.map(Format::as_str)),
                ("context", _) => within(figure_or_text(parameter), 0u32.into(), GrepRequest::MAX_CONTEXT.into(), Value::Null),
                ("max_matches", _) => within(figure_or_text(parameter), 1u32.into(), GrepRequest::MAX_MATCHES.into(), Value::Null),
                ("max_bytes", _) => within(figure_or_text(parameter), 1u64.into(), GrepRequest::MAX_BYTES.into(), Value::Null),
                ("limit", "/v1/sandboxes/{id}/files/list" | "/v1/sandboxes/{id}/files/glob") => {
                    within(figure_or_text(parameter), 1u32.into(), MAX_ENTRIES.into(), Value::Null);
                }
                ("timeout_s", _) => {
                    let (low, high) = (SHORTEST_TIME.as_secs_f64(), TimeLimits::MAX.as_secs_f64());
                    within(figure_or_text(parameter), low.into(), high.into(), Value::Null);
                }
                ("cols" | "rows", _) => {
                    let (low, high) = WindowSize::RANGE;
                    within(figure_or_text(parameter), low.into(), high.into(), Value::Null);
                }
                ("limit", _) => within(figure_or_text(parameter), 1u32.into(), MAX_PAGE.into(), Value::Null),
                ("stream", _) => one_of(figure_or_text(parameter), &[Stream::Stdout.as_str(), Stream::Stderr.as_str()]),
                ("state", _) => one_of(item_of(parameter), &State::ALL.map(State::as_str)),
                _ => {}
            }
        }
    }
}

fn within(figure: &mut Object, low: Number, high: Number, default: Value) {
    (figure.minimum, figure.maximum) = (Some(low), Some(high));
    if !default.is_null() {
        figure.default = Some(default);
    }
}

fn matching(text: &mut Object, shortest: usize, longest: usize, pattern: &str) {
    (text.min_length, text.max_length, text.pattern) = (Some(shortest), Some(longest), Some(pattern.to_owned()));
}

/// One of these, or `null` where that is allowed.
fn one_of(text: &mut Object, names: &[&str]) {
    let may_be_null = matches!(&text.schema_type, SchemaType::Array(types) if types.contains(&Type::Null));
    text.enum_values = Some(names.iter().map(|name| json!(name)).chain(may_be_null.then_some(Value::Null)).collect());
}

fn schema_of<'a>(document: &'a mut OpenApi, name: &str) -> &'a mut Object {
    match document.components.as_mut().and_then(|components| components.schemas.get_mut(name)) {
        Some(RefOr::T(Schema::Object(object))) => object,
        _ => panic!("the document has no object `{name}`"),
    }
}

fn property<'a>(document: &'a mut OpenApi, schema: &str, field: &str) -> &'a mut Object {
    match schema_of(document, schema).properties.get_mut(field) {
        Some(RefOr::T(Schema::Object(object))) => object,
        _ => panic!("`{field}` of `{schema}` is no figure, text or map"),
    }
}

fn figure_or_text(parameter: &mut Parameter) -> &mut Object {
    match &mut parameter.schema {
        Some(RefOr::T(Schema::Object(object))) => object,
        _ => panic!("parameter `{}` is no figure or text", parameter.name),
    }
}

fn item_of(parameter: &mut Parameter) -> &mut Object {
    match &mut parameter.schema {
        Some(RefOr::T(Schema::Array(array))) => item_of_array(array),
        _ => panic!("parameter `{}` is no list", parameter.name),
    }
}

fn item_of_array(array: &mut Array) -> &mut Object {
    if let ArrayItems::RefOrSchema(items) = &mut array.items
        && let RefOr::T(Schema::Object(object)) = &mut **items
    {
        return object;
    }
    panic!("a list is not one of figures or texts");
}

#[cfg(test)]
mod tests;
