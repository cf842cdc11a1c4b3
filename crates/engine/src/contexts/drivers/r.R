# The interpreter of a context: runs code that is sent to it, and tells what came of it.
#
# Orders come on descriptor 9: a line that says what to do and how many bytes of code follow, the code, and NUL. Answers go back on it, a line
# of JSON each. R cannot use a descriptor by its number, so two processes pass both on, which do not hear interrupts.
local({
  # The host takes no line of more than 8 MiB.
  largest <- 8 * 1024 * 1024 - 4096
  longest_message <- 64 * 1024
  longest_traceback <- 512 * 1024
  # In the background, as R waits for what it closes, and code may close all connections.
  orders <- pipe("(trap '' INT; exec cat <&9) &", "rb")
  answers <- pipe("trap '' INT; exec cat >&9", "wb")

  quoted <- function(text) {
    text <- enc2utf8(paste(as.character(text), collapse = "\n"))
    if (!validUTF8(text)) text <- iconv(text, "UTF-8", "UTF-8", sub = "byte")
    for (pair in list(c("\\", "\\\\"), c("\"", "\\\""), c("\n", "\\n"), c("\r", "\\r"), c("\t", "\\t"))) {
      text <- gsub(pair[1], pair[2], text, fixed = TRUE)
    }
    if (grepl("[\001-\037]", text)) {
      for (code in 1:31) text <- gsub(intToUtf8(code), sprintf("\\u%04x", code), text, fixed = TRUE)
    }
    paste0("\"", text, "\"")
  }

  object <- function(...) {
    parts <- list(...)
    paste0("{", paste0("\"", names(parts), "\":", unlist(parts), collapse = ","), "}")
  }

  tell <- function(...) {
    flush(stdout())
    flush(stderr())
    writeBin(charToRaw(paste0(object(...), "\n")), answers)
    flush(answers)
  }

  next_order <- function() {
    head <- readLines(orders, 1, warn = FALSE)
    if (length(head) == 0) quit("no", 0, FALSE)
    words <- strsplit(head, " ", fixed = TRUE)[[1]]
    bytes <- readBin(orders, "raw", as.integer(words[2]) + 1)
    code <- rawToChar(bytes[-length(bytes)])
    Encoding(code) <- "UTF-8"
    list(what = words[1], code = code)
  }

  base64 <- function(bytes) {
    alphabet <- c(LETTERS, letters, 0:9, "+", "/")
    missing <- -length(bytes) %% 3
    threes <- matrix(c(as.integer(bytes), integer(missing)), 3)
    number <- threes[1, ] * 65536L + threes[2, ] * 256L + threes[3, ]
    digits <- rbind(number %/% 262144L, number %/% 4096L %% 64L, number %/% 64L %% 64L, number %% 64L)
    text <- alphabet[digits + 1L]
    text[length(text) + 1 - seq_len(missing)] <- "="
    paste(text, collapse = "")
  }

  cut_to <- function(text, longest) {
    if (nchar(text, "bytes") <= longest) return(text)
    half <- longest %/% 8
    left_out <- nchar(text) - 2 * half
    paste0(substr(text, 1, half), "\n[... ", left_out, " characters left out ...]\n", substring(text, nchar(text) - half + 1))
  }

  show <- function(kind, media, text) {
    content <- quoted(text)
    if (nchar(content, "bytes") > largest) {
      tell(type = quoted(kind), data = "{}", omitted = paste0("{", quoted(media), ":", sum(nchar(text, "bytes")), "}"))
    } else {
      tell(type = quoted(kind), data = paste0("{", quoted(media), ":", content, "}"))
    }
  }

  # Pictures are files of our own device, shown at the end of a run.
  devices <- integer()
  picture <- file.path(tempdir(), "shown%04d.png")
  open_device <- function(...) {
    if (isTRUE(capabilities("cairo"))) grDevices::png(picture, type = "cairo", width = 800, height = 600) else grDevices::pdf(NULL)
    devices <<- c(devices, grDevices::dev.cur())
  }
  options(device = open_device)
  show_pictures <- function() {
    for (device in intersect(devices, grDevices::dev.list())) grDevices::dev.off(device)
    devices <<- integer()
    for (file in sort(list.files(tempdir(), "^shown[0-9]+\\.png$", full.names = TRUE))) {
      show("display", "image/png", base64(readBin(file, "raw", file.size(file))))
      unlink(file)
    }
  }

  show_value <- function(value, is_last) {
    lines <- utils::capture.output(print(value))
    # Some values only draw.
    if (length(lines) > 0) show(if (is_last) "value" else "display", "text/plain", lines)
  }

  # In which call it was, unless that is the driver's own.
  place <- function(condition) {
    call <- conditionCall(condition)
    if (is.null(call) || identical(call[[1]], quote(eval))) "" else paste0(" in ", deparse(call, nlines = 1)[1])
  }

  warn <- function(condition) {
    level <- getOption("warn")
    if (is.numeric(level) && level < 2) {
      if (level >= 0) cat("Warning", place(condition), ": ", conditionMessage(condition), "\n", sep = "", file = stderr())
      invokeRestart("muffleWarning")
    }
  }

  tell_error <- function(error, calls = NULL) {
    message <- tryCatch(conditionMessage(error), error = function(worse) "<its text cannot be had>")
    first <- paste0("Error", place(error), ": ", message)
    # None of the frames that are ours: those of `eval` in front, those of the handlers behind.
    calls <- if (length(calls) > 2) utils::head(calls, -2) else NULL
    lines <- vapply(calls, function(call) paste0("  at ", deparse(call, nlines = 1)[1]), "")
    traceback <- paste(c(first, rev(lines)), collapse = "\n")
    tell(
      type = quoted("error"), name = quoted(cut_to(class(error)[1], 1000)), message = quoted(cut_to(message, longest_message)),
      traceback = quoted(cut_to(traceback, longest_traceback))
    )
  }

  run <- function(expressions) {
    calls <- NULL
    depth <- 0
    evaluate <- function() {
      depth <<- sys.nframe()
      for (number in seq_along(expressions)) {
        result <- withVisible(eval(expressions[[number]], globalenv()))
        if (result$visible) show_value(result$value, number == length(expressions))
      }
      show_pictures()
    }
    noted <- function(error) calls <<- utils::tail(sys.calls(), -(depth + 3))
    tryCatch(
      {
        tell(type = quoted("begun"))
        allowInterrupts(withCallingHandlers(evaluate(), error = noted, warning = warn))
        "ok"
      },
      interrupt = function(condition) "interrupted",
      error = function(error) {
        tell_error(error, calls)
        "error"
      }
    )
  }

  obey <- function(what, code) {
    expressions <- tryCatch(parse(text = code, keep.source = FALSE, encoding = "UTF-8"), error = identity)
    if (!inherits(expressions, "error")) {
      # An interrupt that came too late for the code before.
      tryCatch(allowInterrupts(Sys.sleep(0)), interrupt = function(condition) NULL)
      return(run(expressions))
    }
    if (what == "try" && grepl("unexpected end of input|INCOMPLETE_STRING", conditionMessage(expressions))) return("incomplete")
    expressions$call <- NULL
    class(expressions) <- c("parseError", class(expressions))
    tell_error(expressions)
    "error"
  }

  version <- paste("R", getRversion())
  suspendInterrupts({
    tryCatch(
      {
        tell(type = quoted("ready"), version = quoted(version))
        repeat {
          order <- next_order()
          tell(type = quoted("done"), status = quoted(obey(order$what, order$code)))
        }
      },
      # The channel has been closed or broken by user code: the host knows what that means.
      error = function(error) {
        cat(conditionMessage(error), "\n", file = stderr())
        quit("no", 70, FALSE)
      }
    )
  })
})
