//! Where a listing of files goes on: the path of what came last, as it stands below the directory.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    error::{ApiError, ApiResult},
    params::Params,
};

pub(crate) fn encode(path: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(path)
}

/// The cursor that a request gives back.
pub(crate) fn given(params: &mut Params) -> ApiResult<Option<Vec<u8>>> {
    let Some(text) = params.text("cursor")? else { return Ok(None) };
    match URL_SAFE_NO_PAD.decode(&text) {
        Ok(path) if !path.is_empty() => Ok(Some(path)),
        _ => Err(ApiError::bad_request("invalid_parameter", "parameter `cursor` is not one that this list has given out")),
    }
}

/// The same where it is text.
pub(crate) fn given_text(params: &mut Params) -> ApiResult<Option<String>> {
    let Some(bytes) = given(params)? else { return Ok(None) };
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| ApiError::bad_request("invalid_parameter", "parameter `cursor` is not one that this list has given out"))
}
