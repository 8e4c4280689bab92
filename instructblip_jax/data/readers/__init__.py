"""Released annotation files -> drafts of records, a file or a folder a data set; no picture is opened here."""
