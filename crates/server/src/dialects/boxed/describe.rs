//! What all operations of this API have in common, for the description.

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        OpenApi, Ref, RefOr, ResponseBuilder, SecurityRequirement,
        security::{ApiKey, ApiKeyValue, SecurityScheme},
        tag::TagBuilder,
    },
};

use super::answer::BoxedError;
use crate::dialects;

pub(super) fn describe(document: &mut OpenApi) {
    let about = "The API of Boxed, for its clients. Unknown fields are passed over, and errors are `{\"message\", \"error\"}`";
    document.tags.get_or_insert_default().push(TagBuilder::new().name("boxed").description(Some(about)).build());
    let components = document.components.get_or_insert_default();
    components.schemas.insert(BoxedError::name().into_owned(), BoxedError::schema());
    let (header, query) = ("X-Boxed-API-Key", "api_key");
    components.add_security_scheme("boxed_header", SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new(header))));
    components.add_security_scheme("boxed_query", SecurityScheme::ApiKey(ApiKey::Query(ApiKeyValue::new(query))));
    let failure = ResponseBuilder::new()
        .description("What went wrong")
        .content("application/json", utoipa::openapi::Content::new(Some(RefOr::Ref(Ref::from_schema_name(BoxedError::name())))))
        .build();
    let none: [&str; 0] = [];
    let either = vec![SecurityRequirement::new("boxed_header", none), SecurityRequirement::new("boxed_query", none)];
    let own = document.paths.paths.iter_mut().filter(|(path, _)| dialects::of(path).is_some_and(|dialect| dialect.name == "boxed"));
    for (_, item) in own {
        for operation in [&mut item.get, &mut item.post, &mut item.delete].into_iter().flatten() {
            operation.responses.responses.insert("default".into(), failure.clone().into());
            operation.security = Some(either.clone());
        }
    }
}
