"""`tandem bench run`: every arm over real sockets through an emulated link, answer by answer."""
