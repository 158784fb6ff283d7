"""What is done with a finished result: opening it (`source`), handing it on (`export_cli`, `vht-export`)."""
